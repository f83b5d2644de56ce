#!/usr/bin/env bash
# Writes the Python modules of proto/alignd/v1/*.proto under the folder given as the first argument (default: proto/).
# The pinned generator (constraints/generate.txt) lives in an environment of its own, because it needs a protobuf older than ours.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mkdir -p "${1:-proto}" && cd "${1:-proto}" && pwd)
venv=${ALIGND_PROTO_VENV:-.venv-proto}
pins=constraints/generate.txt

# The generator's wheels end at Python 3.12; without such an interpreter pip builds it from source (a C++ compiler, minutes).
# pyenv hides the versions that are not selected, so they are looked for where it keeps them.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3 python3.12 python3.11 python3.10 \
        "$HOME"/.pyenv/versions/3.1[0-2].*/bin/python "${PYTHON:-python3}"; do
        if "$candidate" -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "note: no Python 3.10 to 3.12 found, building grpcio-tools from source" >&2
    echo "${PYTHON:-python3}"
}

# Parallel callers (test workers) share one environment: the first one builds it, under a lock.
exec 9>"$venv.lock"
flock 9
if ! cmp -s "$pins" "$venv/installed.txt"; then
    "$(find_python)" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$pins"
    cp "$pins" "$venv/installed.txt"
fi
flock -u 9

"$venv/bin/python" -m grpc_tools.protoc --proto_path=proto \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/alignd/v1/*.proto
