"""The Dockerfile, as far as it can be tried without a Docker engine."""

import fnmatch
import json
import re
import shlex
import subprocess
from pathlib import Path

from alignd_server.settings import Settings
from support.environments import Environment, bare_environ
from support.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] not in "#"]


def instructions(name: str) -> list[str]:
    return [rest for word, rest in INSTRUCTIONS if word == name]


def image_environ() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in instructions("ENV") for pair in shlex.split(rest))


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path (relative, of a file or folder) out: the last pattern that matches decides."""
    verdict = False
    parts = path.split("/")
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n"):
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/")
        candidates = parts if pattern.startswith("**/") else prefixes
        if any(fnmatch.fnmatchcase(candidate, pattern.removeprefix("**/")) for candidate in candidates):
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_exists_and_reaches_the_engine() -> None:
    copied = [source for rest in instructions("COPY") for source in rest.split()[:-1]]
    assert {"LICENSE", "proto/", "kernels/", "server/", "client/"} <= set(copied)
    for source in copied:
        path = ROOT / source
        assert path.exists(), source
        files = [path] if path.is_file() else [file for file in path.rglob("*.py") if "build" not in file.parts]
        assert files, source
        for file in files:
            assert not ignored(str(file.relative_to(ROOT))), file


def test_the_rest_of_the_tree_stays_out() -> None:
    for path in (".git", ".venv/bin/python", "tests/conftest.py", "server/__pycache__/x.pyc", "client/build/lib/x.py"):
        assert ignored(path), path


def test_every_wheel_is_installed() -> None:
    (build,) = [rest for rest in instructions("RUN") if "pip wheel" in rest]
    (install,) = [rest for rest in instructions("RUN") if "/wheels/" in rest]
    for folder in ("proto", "kernels", "server", "client"):
        assert f"./{folder}" in build
        assert f"/wheels/alignd_{folder}-*.whl" in install
    assert "[gpu,audio]" in install


def test_torch_is_the_one_that_the_tests_use() -> None:
    pins = (ROOT / "constraints/test.txt").read_text(encoding="utf-8").splitlines()
    (version,) = re.findall(r"TORCH_VERSION=(\S+)", DOCKERFILE)
    assert f"torch=={version}" in pins


def test_variables_ports_and_user() -> None:
    environ = image_environ()
    known = {f"ALIGND_{name.upper()}" for name in Settings.model_fields} | {"ALIGND_CACHE_DIR"}
    assert {name for name in environ if name.startswith("ALIGND_")} <= known
    ports = instructions("EXPOSE")[0].split()
    assert ports == [environ[name].rpartition(":")[2] for name in ("ALIGND_LISTEN", "ALIGND_METRICS_LISTEN")]
    defaults = Settings()
    assert ports == [address.rpartition(":")[2] for address in (defaults.listen, defaults.metrics_listen)]
    # Both write at run time, below the home of a user who is not root.
    (home,) = re.findall(r"--home-dir (\S+)", DOCKERFILE)
    assert all(environ[name].startswith(home) for name in ("TRITON_CACHE_DIR", "ALIGND_CACHE_DIR"))
    assert instructions("USER") == ["10001:10001"]
    assert environ["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def exec_form(text: str, environment: Environment) -> tuple[str | Path, ...]:
    program, *arguments = json.loads(text)
    return environment.folder / "bin" / program, *arguments


def test_wheels_start_a_server_that_answers_the_client(server_environment: Environment) -> None:
    (entrypoint,) = (exec_form(rest, server_environment) for rest in instructions("ENTRYPOINT"))
    (check,) = (exec_form(rest.partition("CMD ")[2], server_environment) for rest in instructions("HEALTHCHECK"))
    # The image's folders do not exist here, and with the user's the kernels need not be compiled once more.
    environ = {name: value for name, value in image_environ().items() if not name.endswith("_CACHE_DIR")}
    environ["PYTHONPATH"] = ""  # the wheels, not the sources
    code = """
import numpy as np
from alignd_client import AlignClient
with AlignClient() as client:
    (alignment,) = client.align_mas([np.zeros((2, 5), dtype=np.float32)])
    print(alignment.durations.tolist(), alignment.path.tolist())
"""
    with ServerProcess(environment=environ, entry=entrypoint) as server:
        client_environ = {**bare_environ(), "ALIGND_TARGET": server.target}
        for command in (check, (server_environment.python, "-c", code)):
            done = subprocess.run(command, env=client_environ, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[1, 4] [0, 1, 1, 1, 1]"
        assert server.terminate() == 0
