"""The engine and the client in process on a GPU, against the reference; and the same in the interpreter."""

import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:  # not imported: it must find its variable set
    pytest.skip("Triton is not installed", allow_module_level=True)

from alignd.wire import CtcRequest, DataType, ItemCode, MasRequest
from alignd_client import AlignClient
from alignd_kernels.attention import reference as attention_reference
from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.ctc import sum_reference as ctc_sum_reference
from alignd_kernels.mas import reference as mas_reference
from alignd_kernels.mas import soft_reference
from alignd_server.engine import Engine, create_engine
from support.interpreter import quicken

CLIENTS = 4

Item = tuple[np.ndarray, np.ndarray]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("interpreter", marks=pytest.mark.interpreter),
        pytest.param("cuda:0", marks=pytest.mark.gpu),
    ],
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "interpreter":
            patch.setenv("TRITON_INTERPRET", "1")  # read when Triton is imported, which the engine does
        from alignd_kernels.gpu_common import INTERPRETED

        assert (request.param == "interpreter") == INTERPRETED, "Triton was imported for the other kind of run"
        if INTERPRETED:
            quicken()
        yield request.param


@pytest.fixture(scope="module")
def engine(device: str) -> Iterator[Engine]:
    engine = create_engine(device, audio=False)
    yield engine
    engine.close(10)


@pytest.fixture(scope="module")
def client(device: str) -> Iterator[AlignClient]:
    with AlignClient.in_process(device) as client:
        yield client


def size(device: str, interpreted: int, real: int) -> int:
    """The interpreter takes milliseconds for a frame."""
    return interpreted if device == "interpreter" else real


def lattices(seed: int, count: int, frames: int) -> list[np.ndarray]:
    """Scores [S, T] on a grid of 1/4, whose sums float32 holds exactly."""
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(1, T // 2 + 1)), int(T)) for T in rng.integers(2, frames + 1, count)]
    return [(rng.integers(-6, 1, shape) / 4).astype(np.float32) for shape in shapes]


def utterances(seed: int, count: int, frames: int) -> list[Item]:
    """Log-probs [T, 7] on the same grid, and targets [L]."""
    rng = np.random.default_rng(seed)
    items = []
    for T in rng.integers(4, frames + 1, count):
        targets = rng.integers(1, 7, int(rng.integers(1, T // 2 + 1))).astype(np.int32)
        items.append(((rng.integers(-6, 1, (int(T), 7)) / 4).astype(np.float32), targets))
    return items


def check_mas(items: list[np.ndarray], answers: list[Any]) -> None:
    assert len(answers) == len(items)
    for value, answer in zip(items, answers):
        _, durations, score = mas_reference.maximum_path(value, np.float32)
        assert np.array_equal(answer.durations, durations)
        assert answer.score == score


def check_ctc(items: list[Item], answers: list[Any]) -> None:
    assert len(answers) == len(items)
    for (log_probs, targets), answer in zip(items, answers):
        expected = ctc_reference.forced_align(log_probs, targets, accumulator=np.float32)
        assert np.array_equal(answer.path, expected.path)
        assert np.array_equal(answer.durations, expected.durations)
        assert answer.score == expected.score


def mas_request(items: list[np.ndarray]) -> MasRequest:
    tokens, frames = (np.array([item.shape[axis] for item in items]) for axis in range(2))
    return MasRequest(np.concatenate([item.reshape(-1) for item in items]), DataType.FLOAT32, tokens, frames)


def check_mas_reply(items: list[np.ndarray], reply: Any) -> None:
    assert [status.code for status in reply.statuses] == [ItemCode.OK] * len(items)
    starts = np.cumsum([0, *(len(item) for item in items)])
    for index, value in enumerate(items):
        _, durations, score = mas_reference.maximum_path(value, np.float32)
        assert np.array_equal(reply.durations[starts[index] : starts[index + 1]], durations)
        assert reply.scores[index] == score


def test_it_runs_on_the_device_that_was_asked_for(engine: Engine, device: str) -> None:
    assert [(found.id, found.backend) for found in engine.devices] == [(device, "triton")]


def test_the_client_gets_the_references_answers(client: AlignClient, device: str) -> None:
    values = lattices(0, size(device, 4, 100), size(device, 12, 150))
    check_mas(values, list(client.align_mas(values)))
    spoken = utterances(1, size(device, 4, 100), size(device, 12, 150))
    check_ctc(spoken, list(client.align_ctc([x for x, _ in spoken], [y for _, y in spoken])))


def test_mas_posteriors_are_summed_on_the_device(
    client: AlignClient, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignd_kernels.mas import gpu_sum

    posteriors, asked = gpu_sum.posteriors, []
    monkeypatch.setattr(gpu_sum, "posteriors", lambda batch, where: asked.append(where) or posteriors(batch, where))
    values = lattices(10, size(device, 2, 60), size(device, 10, 150))
    values.append(np.full((2, 3), -np.inf, np.float32))
    answers = list(client.mas_posteriors(values, on_error="return"))
    assert answers.pop().status.code is ItemCode.NO_FINITE_PATH
    assert asked
    for value, answer in zip(values, answers):
        _, expected, score = soft_reference.posteriors(value)
        ulps = value.shape[1] * 2.0**-23
        np.testing.assert_allclose(answer.posteriors, expected, 0, 8 * ulps)
        np.testing.assert_allclose(answer.score, score, 1e-15, 4 * ulps)


def test_ctc_posteriors_are_summed_on_the_device(
    client: AlignClient, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignd_kernels.ctc import gpu_sum

    posteriors, asked = gpu_sum.posteriors, []
    monkeypatch.setattr(gpu_sum, "posteriors", lambda batch, where: asked.append(where) or posteriors(batch, where))
    spoken = utterances(11, size(device, 2, 60), size(device, 8, 150))
    spoken += [(spoken[0][0], spoken[0][1][:0]), (spoken[0][0][:1], np.array([1, 1], np.int32))]
    answers = list(client.ctc_posteriors([x for x, _ in spoken], [y for _, y in spoken], on_error="return"))
    assert answers.pop().status.code is ItemCode.TOO_FEW_FRAMES
    assert asked
    for (log_probs, targets), answer in zip(spoken, answers):
        status, expected, score = ctc_sum_reference.posteriors(log_probs, targets)
        assert answer.status.ok == (status == 1)
        if answer.status.ok:
            unit = (len(log_probs) + 1) * 2.0**-24
            np.testing.assert_allclose(answer.posteriors, expected, 0, 30 * unit)
            np.testing.assert_allclose(answer.score, score, 1e-15, 8 * unit)


@pytest.mark.parametrize("mode", ["mas", "dtw", "stepwise"])
def test_attention_maps_are_aligned_on_the_device(
    client: AlignClient, device: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignd_kernels.attention import gpu

    align, asked = gpu.align, []
    monkeypatch.setattr(gpu, "align", lambda batch, where: asked.append(where) or align(batch, where))
    rng, count = np.random.default_rng(12), size(device, 2, 60)
    shapes = rng.integers(1, (4, size(device, 4, 90), size(device, 9, 200)), (count, 3)).tolist()
    maps = [(rng.integers(0, 9, (H, S, T + S)) / 8).astype(np.float32) for H, S, T in shapes]
    maps.append(np.full((2, 2, 3), np.nan, np.float32))
    answers = list(client.align_attention(maps, mode=mode, on_error="return"))
    assert answers.pop().status.code is ItemCode.NOT_FINITE
    assert asked
    for values, answer in zip(maps, answers):
        expected = attention_reference.align(values, mode, False, np.float32)
        assert answer.head == expected.head
        assert np.array_equal(answer.focus_rates, expected.focus_rates)
        assert np.array_equal(answer.starts, expected.starts)
        assert np.array_equal(answer.ends, expected.ends)
        # A stepwise walk's score is a sum of logarithms, of 2 ulp of float64 each.
        np.testing.assert_allclose(answer.score, expected.score, 2.0**-22 if mode == "stepwise" else 0, 1e-12)


def test_a_bad_item_fails_alone(client: AlignClient, device: str) -> None:
    good, bad = np.zeros((2, 5), np.float32), np.full((2, 5), np.nan, np.float32)
    answers = list(client.align_mas([good, bad, good], on_error="return"))
    assert [answer.status.ok for answer in answers] == [True, False, True]
    assert answers[1].status.code is ItemCode.NOT_FINITE
    check_mas([good, good], [answers[0], answers[2]])


def test_several_threads_share_one_client(client: AlignClient, device: str) -> None:
    """Both families at once, so that launches of both are in flight."""
    together = threading.Barrier(CLIENTS)
    count, frames = size(device, 2, 60), size(device, 8, 120)

    def work(seed: int) -> None:
        values, spoken = lattices(seed, count, frames), utterances(seed, count, frames)
        together.wait(30)
        for _ in range(size(device, 1, 5)):
            check_mas(values, list(client.align_mas(values)))
            check_ctc(spoken, list(client.align_ctc([x for x, _ in spoken], [y for _, y in spoken])))

    with ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(work, seed) for seed in range(CLIENTS)]:
            future.result(120)


def test_requests_that_wait_together_are_answered_as_alone(engine: Engine, device: str) -> None:
    batches = [lattices(seed, 3, size(device, 10, 200)) for seed in range(size(device, 3, 30))]
    futures = [engine.submit("MaximumPath", mas_request(items)) for items in batches]
    for items, future in zip(batches, futures):
        check_mas_reply(items, future.result(60))


@contextmanager
def narrow(device: str, memory_bytes: int) -> Iterator[Engine]:
    """An engine whose launches may use so much beside input and output."""
    engine = create_engine(device, memory_bytes=memory_bytes, audio=False)
    try:
        yield engine
    finally:
        engine.close(10)


def cost_of(engine: Engine, name: str, request: Any) -> Any:
    operation: Any = engine._operations[name]
    return operation.cost(request, engine.devices[0])


def test_a_batch_that_does_not_fit_is_split(engine: Engine, device: str) -> None:
    items = lattices(5, 12, 12)
    request = mas_request(items)
    cost = cost_of(engine, "MaximumPath", request)
    assert cost.scratch_bytes > 3 * cost.largest_scratch_bytes
    with narrow(device, cost.largest_scratch_bytes) as small:
        check_mas_reply(items, small.submit("MaximumPath", request).result(60))


def ctc_request(items: list[Item]) -> CtcRequest:
    return CtcRequest(
        np.concatenate([log_probs.reshape(-1) for log_probs, _ in items]),
        DataType.FLOAT32,
        np.array([len(log_probs) for log_probs, _ in items]),
        7,
        np.concatenate([targets for _, targets in items]),
        np.array([len(targets) for _, targets in items]),
    )


def test_an_item_that_cannot_fit_is_refused_beside_those_that_can(engine: Engine, device: str) -> None:
    good = utterances(6, 2, 12)
    long = np.zeros((900, 7), np.float32), np.tile(np.array([1, 2], np.int32), 180)
    budget = cost_of(engine, "ForcedAlign", ctc_request(good)).scratch_bytes
    with narrow(device, budget) as small:
        reply = small.submit("ForcedAlign", ctc_request([good[0], long, good[1]])).result(60)
    assert [status.code for status in reply.statuses] == [ItemCode.OK, ItemCode.OUT_OF_MEMORY, ItemCode.OK]
    assert str(budget) in reply.statuses[1].message


def test_a_shortage_that_the_budget_did_not_foresee_splits_a_batch_too(
    engine: Engine, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's error, which others that use the device can cause at any time."""
    import torch

    from alignd_kernels.mas import gpu

    align, asked = gpu.align, []

    def short(batch: Any, where: str) -> Any:
        asked.append(len(batch))
        if len(batch) > 3 and device == "interpreter":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        if len(batch) > 3:
            torch.empty(1 << 50, dtype=torch.uint8, device=where)  # more than any GPU has
        return align(batch, where)

    monkeypatch.setattr(gpu, "align", short)
    items = lattices(7, 10, size(device, 8, 100))
    check_mas_reply(items, engine.submit("MaximumPath", mas_request(items)).result(60))
    assert asked[0] == 10
    assert max(asked[-2:]) <= 3


def test_two_clients_on_one_device(client: AlignClient, device: str) -> None:
    values = lattices(9, size(device, 2, 40), size(device, 8, 100))
    with AlignClient.in_process(device) as other:
        one, two = list(client.align_mas(values)), list(other.align_mas(values))
    check_mas(values, one)
    check_mas(values, two)


@pytest.mark.parametrize("device", [pytest.param("cuda:0", marks=pytest.mark.gpu)], indirect=True)
def test_no_request_waits_for_a_kernel_to_be_compiled(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any operation and type, short or long: as the metric tells."""
    from alignd_kernels import gpu_common
    from alignd_kernels.ctc import gpu as ctc_gpu
    from alignd_kernels.ctc import gpu_long

    monkeypatch.setattr(gpu_common, "_compiled", {})  # nothing of what other tests have launched
    engine = create_engine(device, audio=False)
    with AlignClient.in_process(device) as client:

        def seconds() -> float:
            return engine.metrics.registry.get_sample_value("alignd_kernel_compile_seconds") or 0.0

        before = seconds()
        assert gpu_common.compile_seconds() > 0
        for dtype in (np.float16, np.float32, np.float64):
            values = [np.zeros(shape, dtype) for shape in ((3, 5), (70, 99), (3, 1100))]
            maps = [np.full((2, *value.shape), 0.5, dtype) for value in values]
            lattices = [np.zeros((frames, labels + 1, 2), dtype) for labels, frames in ((3, 5), (70, 99))]
            log_probs = [np.zeros((frames, 7), dtype) for frames in (5, 99, 600)]
            targets = [np.arange(labels, dtype=np.int32) % 6 + 1 for labels in (3, 70, 3)]
            targets[0][1] = -1  # the wildcard
            answers = [*client.align_mas(values), *client.mas_posteriors(values)]
            answers += [*client.align_latents((value.T, value.T[:3]) for value in values[:2])]
            answers += [*client.align_transducer(lattices), *client.transducer_posteriors(lattices)]
            for mode in ("mas", "dtw", "stepwise"):
                answers += client.align_attention(maps, mode=mode)
            for star_score in (0.0, "max"):
                answers += client.align_ctc(log_probs, targets, star_score=star_score)
                answers += client.ctc_posteriors(log_probs, targets, star_score=star_score)
            with monkeypatch.context() as patch:
                patch.setattr(ctc_gpu, "KEPT_BYTES", 0)
                patch.setattr(gpu_long, "window_bytes", lambda *_: 1)  # each item in windows
                answers += client.align_ctc(log_probs, targets)
            assert all(answer.status.ok for answer in answers)
        assert seconds() == before
    engine.close(10)
