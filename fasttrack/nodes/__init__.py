"""The hardware of all nodes of a job, in one run: each samples itself, one gathers them."""
