"""`make demo`: a real server, a real client, a real recording, and the latency that Prometheus would read."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CACHE = "ALIGND_CACHE_DIR"
KERNEL_LATENCY = "alignd_kernel_duration_seconds"


def main() -> None:
    recording, transcript = find_recording()
    command = ["alignd-server", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]
    print("$", *command, "&")
    print("starting …", flush=True)
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([BIN / command[0], *command[1:]], stderr=log, env=environ())
        try:
            serving = wait_until_serving(server, log.fileno())
            target = f"127.0.0.1:{serving['port']}"
            client("health", target=target)
            client("align", str(recording.relative_to(ROOT)), "--text", transcript, target=target)
            show_kernel_latency(int(serving["metrics_port"]))
            server.send_signal(signal.SIGTERM)
            print(f"The server stopped with exit code {server.wait(60)}.")
        finally:
            server.kill()
            server.wait()


def find_recording() -> tuple[Path, str]:
    """The repository's recording and its transcript."""
    (recording,) = (ROOT / "tests/data").glob("*.flac")
    return recording, recording.with_suffix(".txt").read_text(encoding="utf-8").strip()


def wait_until_serving(server: subprocess.Popen[bytes], log: int) -> dict[str, str]:
    """What the server's log says once it serves, and on the way there for people; exits with the log where it ends.

    As long as it lives it is waited for: how long its kernels compile, it says itself.
    """
    begin = time.monotonic()
    told = 0
    while True:
        ended = server.poll() is not None  # before the log is read for the last time
        lines = read(log).split("\n")[:-1]
        for line in lines[told:]:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "serving":
                print(f"serving after {time.monotonic() - begin:.1f} s on {', '.join(event['devices'])}\n")
                return event
            if "event" in event:
                print(event["event"], flush=True)
        if ended:
            sys.exit(f"The server did not start:\n{read(log)}")
        told = len(lines)
        time.sleep(0.05)


def read(file: int) -> str:
    """All that a file holds; the position stays, because the server writes at the same one."""
    return os.pread(file, 1 << 20, 0).decode()


def environ(**more: str) -> dict[str, str]:
    """The caller's variables without settings of ours, which could point the demonstration elsewhere, but for the
    folder where compiled kernels are kept."""
    kept = {name: value for name, value in os.environ.items() if name == CACHE or not name.startswith("ALIGND_")}
    return {**kept, **more}


def client(*arguments: str, target: str) -> None:
    print("$ alignd", *(f'"{word}"' if " " in word else word for word in arguments), flush=True)
    done = subprocess.run([BIN / "alignd", *arguments], cwd=ROOT, env=environ(ALIGND_TARGET=target), check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    print()


def show_kernel_latency(metrics_port: int) -> None:
    """Print the sums and counts of the kernels' histogram, and the means that they give."""
    url = f"http://127.0.0.1:{metrics_port}/metrics"
    print(f"$ curl -s {url} | grep -E '{KERNEL_LATENCY}_(count|sum)'")
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    print(
        *(line for line in text.splitlines() if line.startswith((f"{KERNEL_LATENCY}_count", f"{KERNEL_LATENCY}_sum"))),
        sep="\n",
    )
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families[KERNEL_LATENCY].samples
    totals = {(sample.labels["op"], sample.name.removeprefix(KERNEL_LATENCY)): sample.value for sample in samples}
    for op in sorted({op for op, _ in totals}):
        launches = totals[op, "_count"]
        print(
            f"kernel latency of {op}: {totals[op, '_sum'] / launches * 1e3:.2f} ms, mean of {launches:.0f} launch(es)"
        )
    print()


if __name__ == "__main__":
    main()
