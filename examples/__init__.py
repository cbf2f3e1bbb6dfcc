"""The examples, which `fasttrack demo` runs; in the package they are `fasttrack.examples`."""
