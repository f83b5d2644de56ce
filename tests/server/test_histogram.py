"""Histograms of our own: what they expose is what the metrics library's would."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from alignd_server.histogram import Histogram, HistogramFamily

BUCKETS = (1e-5, 0.5, 1.0, 4.0, 4.0**18)
AMOUNTS = (0.0, 1e-5, 0.25, 0.5, 0.75, 1, 3, 4.0, 1e6, 4**18, 1e12)


def exposed(kind: Any) -> list[str]:
    registry = CollectorRegistry()
    family = kind("some_seconds", "What it is.", ["op", "device"], buckets=BUCKETS, registry=registry)
    family.labels("never", "seen")
    for index, amount in enumerate(AMOUNTS):
        family.labels("op", f"cpu{index % 2}").observe(amount)
    lines = generate_latest(registry).decode().splitlines()
    return [line.rsplit(" ", 1)[0] if "_created{" in line else line for line in lines]


def test_exposes_what_the_library_would() -> None:
    ours = exposed(HistogramFamily)
    assert ours == exposed(prometheus_client.Histogram)
    assert 'some_seconds_bucket{device="cpu0",le="+Inf",op="op"} 6.0' in ours


def test_every_observation_is_counted_once() -> None:
    histogram = Histogram((1.0, 2.0))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(histogram.observe, [0.5, 1.5, 2.5, 2.0] * 500))
    assert histogram.read() == ([500, 1500, 2000], 3250.0)


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    HistogramFamily("some_items", "", ["op"], buckets=(1.0,), registry=registry)
    with pytest.raises(ValueError, match="some_items"):
        HistogramFamily("some_items", "", ["op"], buckets=(1.0,), registry=registry)


def test_labels_are_counted() -> None:
    family = HistogramFamily("some_items", "", ["op", "device"], buckets=(1.0,), registry=CollectorRegistry())
    assert family.labels("mas", "cpu") is family.labels("mas", "cpu")
    with pytest.raises(ValueError, match="some_items has the labels"):
        family.labels("mas")
