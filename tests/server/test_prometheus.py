"""A real Prometheus, with the configuration that is shipped, scrapes a real server and answers questions about it."""

import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from alignd.wire import MAXIMUM_PATH, DataType, MasRequest
from support.raw import ask
from support.server_process import ServerProcess

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WAIT_S = 90.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--audio", "off") as process:
        yield process


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus under deploy/prometheus.yml, but for the server's address and shorter intervals."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is missing (Debian package prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    address = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yml").write_text(json.dumps(configuration), encoding="utf-8")
    shutil.copy(DEPLOY / "alerts.yml", folder)
    log = folder / "log"
    command = [binary, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.format=json"]
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], cwd=folder, stderr=stderr)
    try:
        url = f"http://{wait_for(lambda: listening_address(log), 'Prometheus to listen')}"
        wait_for(lambda: ready(url), "Prometheus to be ready")  # it listens before that, and answers 503
        yield url
    finally:
        process.kill()
        process.wait()


def listening_address(log: Path) -> str | None:
    for line in log.read_text(encoding="utf-8").split("\n")[:-1]:
        if '"Listening on"' in line:
            return str(json.loads(line)["address"])
    return None


def ready(url: str) -> bool | None:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=10):
            return True
    except urllib.error.URLError:
        return None


def wait_for(attempt: Callable[[], Any], what: str) -> Any:
    """The first result of `attempt` that is not None."""
    end = time.monotonic() + WAIT_S
    while (result := attempt()) is None:
        assert time.monotonic() < end, f"waited {WAIT_S} s for {what}"
        time.sleep(0.1)
    return result


def api(prometheus: str, path: str, **parameters: str) -> Any:
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)["data"]


def value_of(prometheus: str, expression: str) -> float | None:
    """The value of a query with one series, None while it has none or no number."""
    result = api(prometheus, "query", query=expression)["result"]
    if not result:
        return None
    (series,) = result
    value = float(series["value"][1])
    return value if math.isfinite(value) else None


def align(server: ServerProcess) -> None:
    request = MasRequest(np.zeros(40, "f4"), DataType.FLOAT32, np.array([4]), np.array([10]))
    assert ask(server.target, MAXIMUM_PATH, request).statuses[0].ok


def test_it_scrapes_the_server(prometheus: str) -> None:
    assert wait_for(lambda: value_of(prometheus, 'up{job="alignd"}'), "a scrape") == 1.0


def test_a_query_over_the_kernel_durations_answers(server: ServerProcess, prometheus: str) -> None:
    buckets = 'alignd_kernel_duration_seconds_bucket{op="mas",backend="numba",dtype="float32"}'
    median = f"histogram_quantile(0.5, sum by (le) (rate({buckets}[10s])))"

    def under_load() -> float | None:
        align(server)
        return value_of(prometheus, median)

    # A kernel of 40 cells; the bound is of the histogram, the point is that the query answers in seconds.
    assert 0.0 < wait_for(under_load, "the median") < 10.0


def test_prometheus_counts_what_the_server_counts(server: ServerProcess, prometheus: str) -> None:
    align(server)
    handled = 'sum(grpc_server_handled_total{grpc_method="MaximumPath",grpc_code="OK"})'
    expected = server.metric("grpc_server_handled_total", grpc_method="MaximumPath", grpc_code="OK")
    assert expected >= 1.0
    wait_for(lambda: True if value_of(prometheus, handled) == expected else None, "the count of calls")


def test_the_alerts_are_evaluated_without_error(prometheus: str) -> None:
    def all_evaluated() -> list[dict[str, Any]] | None:
        rules = [rule for group in api(prometheus, "rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for(all_evaluated, "the first evaluation of the alerts")
    assert {rule["name"] for rule in rules} >= {"AligndDown", "AligndOverloaded"}
    for rule in rules:
        assert (rule["health"], rule["state"]) == ("ok", "inactive"), rule
