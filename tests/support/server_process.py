"""A real `alignd-server` process on free ports."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

TESTS = Path(__file__).resolve().parents[1]

START_S = 280.0
"""The first start of all compiles the kernels."""


class ServerProcess:
    """Starts the server, waits until it serves, and ends it.

    Attributes:
        target: host:port of the gRPC service.
        metrics_url: of /metrics.
    """

    def __init__(
        self,
        *flags: str,
        listen: str = "127.0.0.1:0",
        metrics_listen: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
        entry: tuple[str | Path, ...] = (sys.executable, "-m", "alignd_server"),
    ) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)  # noqa: SIM115
        command = [*entry, "--listen", listen, "--metrics-listen", metrics_listen]
        command += ["--log-format", "json", *([] if "--device" in flags else ["--device", "cpu"]), *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._log, env={**os.environ, **(environment or {})}
        )
        serving = self.wait_for_log("serving", START_S)
        self.target = f"127.0.0.1:{serving['port']}"
        self.metrics_url = f"http://127.0.0.1:{serving['metrics_port']}/metrics"

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]

    def wait_for_log(self, event: str, timeout: float = 30.0) -> dict[str, object]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in self.events():
                if line.get("event") == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"the server never said {event!r}; its log:\n{self.log}")

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=10) as reply:
            return reply.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples called `name` that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.split("{")[0] == name and all(f'{key}="{label}"' in sample for key, label in labels.items()):
                total += float(value)
        return total

    def forget_peak(self) -> None:
        """What `peak_bytes` tells begins with what the process holds now."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def peak_bytes(self) -> int:
        """The most memory that the process has held at a time."""
        with open(f"/proc/{self.process.pid}/status") as lines:
            (peak,) = (line for line in lines if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024

    def terminate(self, timeout: float = 60.0) -> int:
        """Send SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        os.unlink(self._log.name)


class GatedServer(ServerProcess):
    """A server that stays busy with requests marked `workloads.HELD` while its gate is closed."""

    def __init__(self, *flags: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._gate = Path(self._folder.name, "closed")
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {"TEST_GATE_OF_ALIGND": str(self._gate), "PYTHONPATH": path}
        super().__init__(*flags, environment=environment, entry=(sys.executable, "-m", "support.gated_server"))

    def close_gate(self) -> None:
        self._gate.touch()

    def open_gate(self) -> None:
        self._gate.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._folder.cleanup()
