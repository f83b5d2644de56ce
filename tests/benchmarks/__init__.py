"""`make bench`: our kernels and doors beside other packages and beside the machine's own limits, in one run."""
