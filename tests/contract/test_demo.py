"""What `make demo` does until its server serves, and what it passes on."""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/demo.py"
COMPILING = '{"event": "compiling the kernels: takes long", "level": "info"}'
SERVING = '{"event": "serving", "port": 7, "devices": ["cuda:0"]}'


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start() -> Iterator[Any]:
    """A process that logs as it is told, and the file that it logs to."""
    with tempfile.TemporaryFile("w+") as log:

        def started(program: str) -> tuple[subprocess.Popen[bytes], int]:
            return subprocess.Popen([sys.executable, "-c", program], stderr=log), log.fileno()

        yield started


def test_what_the_server_says_is_told_while_it_lives(
    demo: ModuleType, start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = iter(range(0, 3600 * 1000, 3600))  # of a clock by which any limit would have passed
    clock = SimpleNamespace(monotonic=lambda: float(next(hours)), sleep=time.sleep)
    monkeypatch.setattr(demo, "time", clock)
    program = f"import sys, time; log = sys.stderr.write; log('{COMPILING}\\na warning\\n'); sys.stderr.flush()\n"
    server, log = start(program + f"time.sleep(0.3); log('{SERVING}\\n'); sys.stderr.flush(); time.sleep(60)")
    try:
        assert demo.wait_until_serving(server, log)["port"] == 7
    finally:
        server.kill()
        server.wait()
    said, serving = capsys.readouterr().out.splitlines()[:2]
    assert said == "compiling the kernels: takes long"
    assert serving.startswith("serving after ")
    assert serving.endswith(" s on cuda:0")


def test_a_server_that_ends_is_shown_with_its_log(demo: ModuleType, start: Any) -> None:
    server, log = start("import sys; sys.exit('the port is taken')")
    with pytest.raises(SystemExit, match="did not start:\nthe port is taken"):
        demo.wait_until_serving(server, log)
    assert server.wait() == 1


def test_of_our_settings_the_cache_alone_is_passed_on(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGND_CACHE_DIR", "/kept")
    monkeypatch.setenv("ALIGND_DEVICE", "cuda:7")
    environ = demo.environ(ALIGND_TARGET="here:1")
    ours = {name: value for name, value in environ.items() if name.startswith("ALIGND_")}
    assert ours == {"ALIGND_CACHE_DIR": "/kept", "ALIGND_TARGET": "here:1"}
