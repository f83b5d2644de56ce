"""`make bench`: our kernels and doors beside other packages and beside the machine's own limits, in one run."""

import os

# Threads of OpenMP (torch's, and so peers') else spin for some milliseconds after their work, on a processor that the
# next contestant's threads need. Read when the library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
