#!/usr/bin/env bash
# Everything that needs a GPU, from the source tree with this machine's own python, torch and triton: first whether the
# kernels are right, then how fast they are. Results go to the folder $OUT (build/gpu by default).
#   tests/benchmarks/gpu.sh             on a machine with an NVIDIA GPU
#   tests/benchmarks/gpu.sh --rehearse  without one: the interpreter's tests and a quick case stand in
set -uo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
out=${OUT:-build/gpu}
export PYTHONPATH=proto:kernels:server:client:tests PYTHONUNBUFFERED=1
mkdir -p "$out"

if [ "${1:-}" = --rehearse ]; then
    marker=interpreter cases=(--quick -k mas-800x160) name=rehearsal
else
    marker=gpu cases=(-k cuda) name=$("$python" -c 'import re, torch
print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower())') || exit 1
fi

# Not the project's pytest settings: plugins that they name may be missing here.
"$python" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider -q -ra \
    -m "$marker" ${WORKERS:+-n "$WORKERS"} tests/kernels 2>&1 | tee "$out/tests.txt"
right=$?

"$python" -m benchmarks "${cases[@]}" --store "$name" 2>&1 | tee "$out/benchmarks.txt"
timed=$?
mv tests/benchmarks/results/"$name".* "$out"/

echo "tests: exit status $right; benchmarks: $timed; results in $out"
[ "$right" = 0 ] && [ "$timed" = 0 ]
