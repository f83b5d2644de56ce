"""What a real server answers a real client about attention maps, latents and sums over all paths is the reference's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alignd_client import STAR, AlignClient
from alignd_kernels.attention import reference as attention
from alignd_kernels.ctc import sum_reference as soft_ctc
from alignd_kernels.mas import reference as mas
from alignd_kernels.mas import soft_reference as soft_mas
from alignd_kernels.mas.latents import reference_lattice
from support.server_process import ServerProcess

SIZES = [(3, 9), (1, 1), (4, 4), (2, 17), (1, 6)]  # tokens and frames
ULP = 2.0**-23


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[AlignClient]:
    with AlignClient(server.target) as client:
        yield client


def grid(*shape: int) -> npt.NDArray[np.float32]:
    """Multiples of 1/64 between 0 and 1: float32 holds sums of them, and of their squares."""
    return np.random.default_rng(sum(shape)).integers(0, 65, shape).astype(np.float32) / 64


@pytest.mark.parametrize("mode", ["mas", "dtw", "stepwise", "mas of logarithms", "dtw of logarithms"])
def test_attention_maps(client: AlignClient, mode: str) -> None:
    mode, log = mode.split()[0], "logarithms" in mode
    maps = [grid(heads, *size) for heads, size in enumerate(SIZES, 1)]
    if mode == "dtw":
        maps.append(grid(2, 6, 3))
    given: Any = {"mode": mode, "log": log}
    for x, found in zip(maps, client.align_attention(maps, **given), strict=True):
        expected = attention.align(x, **given, accumulator=np.float32)
        assert found.head == expected.head
        assert found.focus_rates.tolist() == expected.focus_rates.tolist()
        assert found.starts.tolist() == expected.starts.tolist()
        assert found.ends.tolist() == expected.ends.tolist()
        assert found.score == expected.score


@pytest.mark.parametrize("unit", [False, True], ids=["deviations", "unit deviations"])
def test_latents(client: AlignClient, unit: bool) -> None:
    C = 4
    items = [(grid(T, C), grid(S, C), -grid(S, C))[: 2 if unit else 3] for S, T in SIZES]
    for item, found in zip(items, client.align_latents(items), strict=True):
        z, mean, log_sigma = (*item, None)[:3]
        _, durations, score = mas.maximum_path(reference_lattice(z, mean, log_sigma))
        assert found.durations.tolist() == durations.tolist()
        assert found.path.tolist() == np.repeat(np.arange(len(mean)), durations).tolist()
        # By `cpu_latents` a cell is off by 7 · Σ d² + Σ |d · mean| / σ + 2 · |Σ log σ + 2 log 2π| half ULP, with d ≤ e.
        assert found.score == pytest.approx(score, rel=ULP, abs=len(z) * (32 * np.e**2 + 16) * ULP / 2)


def test_soft_mas(client: AlignClient) -> None:
    values = [8 * grid(*size) - 4 for size in SIZES]
    for x, found in zip(values, client.mas_posteriors(values), strict=True):
        _, posteriors, score = soft_mas.posteriors(x)
        error = 4 * x.shape[1] * ULP  # `mas.cpu_sum`
        np.testing.assert_allclose(found.posteriors, posteriors, rtol=0, atol=2 * error)
        assert found.score == pytest.approx(score, rel=0, abs=error)


@pytest.mark.parametrize("star_score", [-0.5, "max"])
def test_soft_ctc(client: AlignClient, star_score: Any) -> None:
    targets = [[1, 1, 3], [2], [2, STAR], [], [STAR]]
    log_probs = [-4 * grid(frames, 5) for _, frames in SIZES]
    found_of = client.ctc_posteriors(log_probs, targets, star_score=star_score)
    star = np.nan if star_score == "max" else star_score
    for x, labels, found in zip(log_probs, targets, found_of, strict=True):
        _, posteriors, score = soft_ctc.posteriors(x, np.array(labels, np.int32), 0, star)
        error = 6 * len(x) * ULP  # `ctc.sums`
        np.testing.assert_allclose(found.posteriors, posteriors, rtol=0, atol=2 * error)
        assert found.score == pytest.approx(score, rel=0, abs=error)
