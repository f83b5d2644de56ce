"""What runs the server beside others: compose, Prometheus and its alerts agree with the image and with the metrics."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignd_server.interceptor import MetricsInterceptor
from alignd_server.metrics import Metrics
from alignd_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def load(name: str) -> Any:
    # `!reset` is compose's own tag, for a value that takes an inherited one away.
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reset", lambda loader, node: None)
    return yaml.load((DEPLOY / name).read_text(encoding="utf-8"), Loader)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_compose_publishes_the_ports_of_the_settings() -> None:
    defaults = Settings()
    published = {tuple(map(int, entry.split(":"))) for entry in load("compose.yaml")["services"]["alignd"]["ports"]}
    assert published == {(port, port) for port in map(port_of, (defaults.listen, defaults.metrics_listen))}


def test_compose_builds_this_tree_and_mounts_what_exists() -> None:
    services = load("compose.yaml")["services"]
    assert (DEPLOY / services["alignd"]["build"]["context"] / "Dockerfile").is_file()
    mounts = [volume.split(":")[0] for volume in services["prometheus"]["volumes"]]
    assert mounts
    for mount in mounts:
        assert (DEPLOY / mount).is_file(), mount


def test_compose_gives_the_drain_its_time() -> None:
    grace = load("compose.yaml")["services"]["alignd"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Settings().drain_s


def test_compose_keeps_the_folder_that_the_image_writes() -> None:
    (volume,) = load("compose.yaml")["services"]["alignd"]["volumes"]
    assert f"ALIGND_CACHE_DIR={volume.split(':')[1]}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_cpu_variant_changes_a_service_that_exists() -> None:
    assert load("compose.cpu.yaml")["services"].keys() <= load("compose.yaml")["services"].keys()


def test_prometheus_scrapes_the_service_by_name_and_port() -> None:
    (job,) = load("prometheus.yml")["scrape_configs"]
    ((target,),) = (config["targets"] for config in job["static_configs"])
    name, port = target.split(":")
    assert name in load("compose.yaml")["services"]
    assert int(port) == port_of(Settings().metrics_listen)


def test_every_metric_of_an_alert_exists() -> None:
    metrics = Metrics()
    MetricsInterceptor(metrics.registry)
    existing = {"up"}
    for family in metrics.registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        existing |= {family.name + suffix for suffix in suffixes}
    rules = [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        used = set(re.findall(r"\b(?:alignd_\w+|grpc_server_\w+|up\b)", rule["expr"]))
        assert used, rule
        assert used <= existing, rule


def test_prometheus_accepts_configuration_and_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing (Debian package prometheus)")
    done = subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
