"""The GPU's path through the server, with Triton's interpreter in the GPU's place."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from alignd.wire import (
    ALIGN_ATTENTION,
    CTC_POSTERIORS,
    FORCED_ALIGN,
    GET_SERVER_INFO,
    MAS_POSTERIORS,
    MAXIMUM_PATH,
    MAXIMUM_PATH_FROM_LATENTS,
    TRANSDUCER_ALIGN,
    TRANSDUCER_POSTERIORS,
    AttentionRequest,
    CtcRequest,
    DataType,
    ItemCode,
    LatentsRequest,
    MasRequest,
    ServerInfoRequest,
    TransducerRequest,
)
from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.mas import reference as mas_reference
from alignd_server.device import find_devices
from support import reference_answers
from support.raw import ask
from support.server_process import ServerProcess

pytestmark = pytest.mark.interpreter


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--device", "interpreter", "--audio", "off", environment={"TRITON_INTERPRET": "1"}) as process:
        yield process


def test_it_says_what_it_runs_on(server: ServerProcess) -> None:
    (device,) = ask(server.target, GET_SERVER_INFO, ServerInfoRequest()).devices
    assert (device.id, device.backend) == ("interpreter", "triton")


def test_mas(server: ServerProcess) -> None:
    rng = np.random.default_rng(0)
    tokens, frames = np.array([3, 5, 2]), np.array([9, 4, 2])
    values = rng.standard_normal(int((tokens * frames).sum())).astype("f4")
    reply = ask(server.target, MAXIMUM_PATH, MasRequest(values, DataType.FLOAT32, tokens, frames))
    assert [status.code for status in reply.statuses] == [ItemCode.OK, ItemCode.TOO_FEW_FRAMES, ItemCode.OK]
    _, durations, score = mas_reference.maximum_path(values[:27].reshape(3, 9), np.float32)
    assert reply.durations.tolist() == [*durations, 0, 0, 0, 0, 0, 1, 1]
    assert reply.scores[0] == score


def test_ctc(server: ServerProcess) -> None:
    rng = np.random.default_rng(1)
    log_probs, targets = rng.standard_normal((14, 6)).astype("f4"), np.array([2, 2, -1, 5], np.int32)
    request = CtcRequest(
        log_probs.reshape(-1), DataType.FLOAT32, np.array([14]), 6, targets, np.array([4]), star_score=None
    )
    reply = ask(server.target, FORCED_ALIGN, request)
    expected = ctc_reference.forced_align(log_probs, targets, star_score=np.nan, accumulator=np.float32)
    assert np.array_equal(reply.paths, expected.path)
    assert np.array_equal(reply.durations, expected.durations)
    assert np.array_equal(reply.frame_scores, expected.frame_scores)
    assert reply.scores[0] == expected.score


@pytest.mark.parametrize("modified", [False, True])
def test_transducers(server: ServerProcess, modified: bool) -> None:
    frames, labels = np.array([6, 0, 3]), np.array([2, 1, 3])
    arcs = np.random.default_rng(2).integers(-15, 1, 2 * (18 + 12)).astype("f4") / 8
    request = TransducerRequest(arcs, DataType.FLOAT32, frames, labels, modified)
    paths, expected = ask(server.target, TRANSDUCER_ALIGN, request), reference_answers.transducer_align(request)
    assert [status.code for status in paths.statuses] == [ItemCode.OK, ItemCode.EMPTY, ItemCode.OK]
    assert paths.emission_frames.tolist() == expected.emission_frames.tolist()
    np.testing.assert_array_equal(paths.scores, expected.scores)
    nodes, exact = ask(server.target, TRANSDUCER_POSTERIORS, request), reference_answers.transducer_posteriors(request)
    np.testing.assert_allclose(nodes.posteriors, exact.posteriors, atol=1e-5)
    np.testing.assert_allclose(nodes.scores, exact.scores, rtol=1e-5)


def test_latents(server: ServerProcess) -> None:
    rng = np.random.default_rng(3)
    z, means, log_sigmas = (rng.integers(-8, 9, n * 4).astype("f4") / 8 for n in (9, 3, 3))
    sizes = (np.array([3]), np.array([9]), 4)
    request = LatentsRequest(z, means, log_sigmas, DataType.FLOAT32, *sizes)
    reply = ask(server.target, MAXIMUM_PATH_FROM_LATENTS, request)
    assert reply.durations.tolist() == reference_answers.maximum_path_from_latents(request).durations.tolist()


def test_sums_and_attention_maps_run_there(server: ServerProcess) -> None:
    values, one = np.random.default_rng(4).random(27).astype("f4"), np.ones(1, np.int64)
    request = MasRequest(values, DataType.FLOAT32, 3 * one, 9 * one)
    found, exact = ask(server.target, MAS_POSTERIORS, request), reference_answers.mas_posteriors(request)
    np.testing.assert_allclose(found.posteriors, exact.posteriors, atol=1e-5)
    speech = CtcRequest(values, DataType.FLOAT32, 9 * one, 3, np.array([1, 2], np.int32), 2 * one)
    states = ask(server.target, CTC_POSTERIORS, speech)
    np.testing.assert_allclose(states.posteriors, reference_answers.ctc_posteriors(speech).posteriors, atol=1e-5)
    maps = AttentionRequest(values, DataType.FLOAT32, one, 3 * one, 9 * one)
    spans = ask(server.target, ALIGN_ATTENTION, maps)
    assert spans.starts.tolist() == reference_answers.align_attention(maps).starts.tolist()
    for op in ("mas_posteriors", "ctc_posteriors", "attention"):
        count = "alignd_kernel_duration_seconds_count"
        assert server.metric(count, op=op, backend="triton", device="interpreter") >= 1


def test_its_kernels_are_timed_apart(server: ServerProcess) -> None:
    one = np.ones(1, np.int64)
    ask(server.target, MAXIMUM_PATH, MasRequest(np.zeros(1, "f4"), DataType.FLOAT32, one, one))
    launches = server.metric("alignd_kernel_duration_seconds_count", op="mas", backend="triton", device="interpreter")
    assert launches >= 1


def test_it_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET" not in os.environ
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        find_devices("interpreter")
