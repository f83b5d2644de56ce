#!/usr/bin/env bash
# Everything that needs a GPU, from the source tree with this machine's own Python, torch and triton: first whether small
# cases are right in every type, then how fast the kernels are, then all tests; under 8 minutes. Results go to the folder
# $OUT (build/gpu by default).
#   tests/benchmarks/gpu.sh             on a machine with an NVIDIA GPU
#   tests/benchmarks/gpu.sh --rehearse  without one: Triton's interpreter and tiny shapes stand in
#   tests/benchmarks/gpu.sh --help      for peers, and for packages that the machine lacks
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# Found, not imported: the first stage does that, within its limit.
find='import importlib.util as found, sys; sys.exit(not all(map(found.find_spec, ("torch", "triton"))))'
"${PYTHON:-python3}" -c "$find" || { echo "gpu.sh needs torch and triton: PYTHON=/path/to/python" >&2; exit 2; }
export PYTHONPATH=$root/proto:$root/kernels:$root/server:$root/client:$root/tests PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
