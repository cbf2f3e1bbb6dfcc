"""One file for each place that rows can be delivered to."""
