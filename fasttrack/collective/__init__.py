"""What all ranks call together: values and norms that no rank knows alone."""
