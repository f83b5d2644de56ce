"""In process, tensors on the engine's device are used where they lie: on a GPU, and in the interpreter on the CPU."""

import contextlib
import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:  # not imported: it must find its variable set
    pytest.skip("Triton is not installed", allow_module_level=True)

from alignd.wire import MAXIMUM_PATH, STAR, DataType, ItemCode, MasRequest
from alignd.wire.arrays import DeviceArray, cut, pieces
from alignd_client import AlignClient, InvalidItemsError, InvalidRequestError
from alignd_client import arrays as client_arrays
from alignd_client.aio import AsyncAlignClient
from alignd_client.device_tensors import DeviceTensor, end_to_end_there
from alignd_client.local import Engine as LocalEngine
from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.mas import reference as mas_reference
from alignd_server.engine import Engine, create_engine
from alignd_server.operations import MasOperation
from support import fake_engine
from support.blocking import Blocking
from support.interpreter import quicken

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TARGETS = [2, 2, 1]


@pytest.fixture(
    scope="module",
    params=[pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda:0", marks=pytest.mark.gpu)],
)
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine's device, as torch calls it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")  # read when Triton is imported, which the engine does
        from alignd_kernels.gpu_common import INTERPRETED

        assert (request.param == "cpu") == INTERPRETED, "Triton was imported for the other kind of run"
        if INTERPRETED:
            quicken()
        yield request.param


@pytest.fixture(scope="module")
def device(where: str) -> str:
    """The same, as the engine calls it."""
    return "interpreter" if where == "cpu" else where


@pytest.fixture(scope="module")
def client(device: str) -> Iterator[AlignClient]:
    with AlignClient.in_process(device) as client:
        yield client


@pytest.fixture
def staged(client: AlignClient, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, torch.Tensor]]:
    """What each launch is given and what its kernels read; scores that the client takes to host memory are an error."""
    seen: list[tuple[Any, torch.Tensor]] = []
    for family in ("mas", "ctc"):
        gpu = importlib.import_module(f"alignd_kernels.{family}.gpu")

        def noting(buffers: Any, *args: Any, original: Callable[..., Any] = gpu.staged) -> Any:
            there, offsets = original(buffers, *args)
            seen.append((buffers, there))
            return there, offsets

        monkeypatch.setattr(gpu, "staged", noting)
    to_numpy = client_arrays.to_numpy

    def integers_only(value: Any) -> Any:
        assert not (isinstance(value, torch.Tensor) and value.is_floating_point()), "scores in host memory"
        return to_numpy(value)

    monkeypatch.setattr(client_arrays, "to_numpy", integers_only)
    return seen


def scores(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, where: str = "cpu") -> torch.Tensor:
    """On a grid of 1/4: exact in every type."""
    values = np.random.default_rng(seed).integers(-8, 1, shape) / 4
    return torch.from_numpy(values).to(where, dtype)


def check_mas(values: list[torch.Tensor], answers: list[Any]) -> None:
    assert len(answers) == len(values)
    for value, answer in zip(values, answers):
        _, durations, score = mas_reference.maximum_path(value.detach().double().cpu().numpy())
        assert answer.durations.device == value.device
        assert answer.durations.tolist() == list(durations)
        assert answer.score == score


def check_ctc(values: list[torch.Tensor], answers: list[Any]) -> None:
    assert len(answers) == len(values)
    for value, answer in zip(values, answers):
        expected = ctc_reference.forced_align(value.detach().double().cpu().numpy(), np.array(TARGETS))
        assert answer.path.device == value.device
        assert answer.path.tolist() == list(expected.path)
        assert answer.score == expected.score


def align(client: AlignClient, family: str, values: Any, **options: Any) -> list[Any]:
    if family == "mas":
        return list(client.align_mas(values, **options))
    return list(
        client.align_ctc(values, [TARGETS] * 4 if isinstance(values, Iterator) else [TARGETS] * len(values), **options)
    )


CHECKS = {"mas": check_mas, "ctc": check_ctc}
each_family = pytest.mark.parametrize("family", ["mas", "ctc"])


@each_family
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_reads_the_callers_own_memory(
    client: AlignClient, where: str, staged: list[Any], family: str, dtype: torch.dtype
) -> None:
    value = scores(5, 8, dtype=dtype, where=where)
    CHECKS[family]([value], align(client, family, [value]))
    ((_, there),) = staged
    assert there.data_ptr() == value.data_ptr()


@each_family
@pytest.mark.parametrize("way", ["stack", "rows"])
def test_what_lies_end_to_end_is_not_joined(
    client: AlignClient, where: str, staged: list[Any], family: str, way: str
) -> None:
    x = scores(4, 6, 7, where=where)
    CHECKS[family](list(x), align(client, family, x if way == "stack" else list(x)))
    ((_, there),) = staged
    assert (there.data_ptr(), len(there)) == (x.data_ptr(), x.numel())


@each_family
def test_tensors_apart_are_joined_on_the_device(
    client: AlignClient, where: str, staged: list[Any], family: str
) -> None:
    values = [scores(6, 7 + seed // 3, seed=seed, where=where) for seed in range(4)]
    CHECKS[family](values[:3], align(client, family, values[:3]))
    ((buffers, _),) = staged
    assert [buffer.data_ptr() for buffer in buffers] == [value.data_ptr() for value in values[:3]]


@each_family
def test_strides_offsets_and_gradients(client: AlignClient, where: str, staged: list[Any], family: str) -> None:
    turned = scores(7, 6, seed=1, where=where).T
    shifted = scores(6 * 7 + 1, seed=2, dtype=torch.float32, where=where)[1:].reshape(6, 7)  # not aligned to 16 bytes
    leaf = scores(6, 7, seed=3, where=where).requires_grad_()
    for value in (turned, shifted, leaf, leaf * 1, turned[:, :]):
        CHECKS[family]([value], align(client, family, [value]))
    reads = [there.data_ptr() for _, there in staged]
    assert reads[1:3] == [shifted.data_ptr(), leaf.data_ptr()]
    assert reads[0] != turned.data_ptr()


@each_family
def test_what_an_iterator_gives_is_copied_on_the_device(
    client: AlignClient, where: str, staged: list[Any], family: str
) -> None:
    values = [scores(6, 7, seed=seed, where=where) for seed in range(4)]
    buffer = torch.zeros(6, 7, device=where)

    def refill() -> Iterator[torch.Tensor]:
        for value in values:
            buffer.copy_(value)
            yield buffer

    CHECKS[family](values, align(client, family, refill()))
    assert staged


@each_family
def test_asyncio(device: str, client: AlignClient, where: str, staged: list[Any], family: str) -> None:
    value = scores(5, 8, where=where)
    with Blocking(AsyncAlignClient.in_process(device)) as other:
        CHECKS[family]([value], align(other, family, [value]))
    assert staged[-1][1].data_ptr() == value.data_ptr()  # the first ones are the new engine's own


@each_family
def test_arrays_and_tensors_in_turn(client: AlignClient, where: str, family: str) -> None:
    """Those in host memory and those on the device never share a request."""
    values = [scores(6, 7, seed=seed, where=where) for seed in range(5)]
    mixed = [value if seed % 2 else value.cpu().numpy() for seed, value in enumerate(values)]
    answers = align(client, family, mixed)
    assert [isinstance(answer.durations, np.ndarray) for answer in answers] == [True, False, True, False, True]
    expected = align(client, family, values)
    assert [answer.durations.tolist() for answer in answers] == [answer.durations.tolist() for answer in expected]


def bad_items() -> list[torch.Tensor]:
    nan = torch.zeros(2, 5)
    nan[1, 3] = torch.nan
    return [torch.zeros(0, 5), nan, torch.zeros(5), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 2)]


@each_family
def test_bad_items_are_told_as_those_in_host_memory(client: AlignClient, where: str, family: str) -> None:
    there = align(client, family, [item.to(where) for item in bad_items()], on_error="return")
    here = align(client, family, [item.numpy() for item in bad_items()], on_error="return")
    assert [answer.status for answer in there] == [answer.status for answer in here]
    assert [answer.status.code for answer in there[:4]] == [
        ItemCode.EMPTY,
        ItemCode.NOT_FINITE if family == "mas" else ItemCode.TOO_FEW_FRAMES,
        ItemCode.MALFORMED,
        ItemCode.MALFORMED,
    ]
    with pytest.raises(TypeError, match=r"item 0: .*not int64"):
        align(client, family, [bad_items()[3].to(where)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_maximum_path(client: AlignClient, where: str, staged: list[Any], dtype: torch.dtype) -> None:
    value = scores(3, 4, 9, dtype=dtype, where=where)
    mask = torch.zeros(3, 4, 9, device=where)
    for b, (S, T) in enumerate([(4, 9), (2, 5), (3, 9)]):
        mask[b, :S, :T] = 1
    path = client.maximum_path(value, mask)
    assert (path.device, path.dtype) == (value.device, torch.float32)
    expected = client.maximum_path(value.double().cpu().numpy(), mask.cpu().numpy())
    assert np.array_equal(path.cpu().numpy(), expected)
    assert all(isinstance(piece, torch.Tensor) for piece in staged[0][0])


def test_a_full_padded_batch_is_not_copied(client: AlignClient, where: str, staged: list[Any]) -> None:
    value = scores(3, 4, 9, where=where)
    client.maximum_path(value, torch.ones(3, 4, 9, dtype=torch.bool, device=where))
    client.forced_align(value, torch.ones(3, 1, dtype=torch.int64, device=where))
    assert [there.data_ptr() for _, there in staged] == [value.data_ptr()] * 2


@pytest.mark.parametrize("kind", [torch.bool, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("hole", [(1, 0, 0), (1, 1, 2), (1, 3, 4)])
def test_a_mask_that_is_no_rectangle(client: AlignClient, where: str, hole: tuple[int, ...], kind: torch.dtype) -> None:
    mask = torch.zeros(3, 4, 9, dtype=kind, device=where)
    mask[:, :3, :4] = 1
    mask[hole] = 1 - mask[hole].int()
    value = scores(3, 4, 9, where=where)
    told = []
    for given in ((value, mask), (value.cpu().numpy(), mask.int().cpu().numpy())):
        with pytest.raises(InvalidRequestError, match="item 1: the true cells must be a rectangle") as error:
            client.maximum_path(*given)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_masks_without_cells(client: AlignClient, where: str) -> None:
    for shape in ((0, 4, 9), (2, 0, 9), (2, 4, 0)):
        empty = torch.zeros(shape, device=where)
        if shape[0]:
            with pytest.raises(InvalidItemsError):
                client.maximum_path(empty, empty)
        else:
            assert tuple(client.maximum_path(empty, empty).shape) == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("star_score", [-0.5, "max"])
def test_forced_align(client: AlignClient, where: str, staged: list[Any], dtype: torch.dtype, star_score: Any) -> None:
    log_probs = scores(3, 9, 4, dtype=dtype, where=where)
    targets = torch.tensor([[1, STAR, 2], [3, 0, 0], [STAR, 3, 0]], device=where)
    lengths = torch.tensor([9, 4, 6], device=where), torch.tensor([3, 1, 2], device=where)
    paths, frame_scores = client.forced_align(log_probs, targets, *lengths, star_score=star_score)
    assert (paths.dtype, frame_scores.dtype) == (torch.int64, dtype)
    assert (paths.device, frame_scores.device) == (log_probs.device, log_probs.device)
    # The first row is full, so the second one's frames adjoin it.
    assert [buffer.data_ptr() for buffer in staged[0][0]] == [log_probs[row].data_ptr() for row in (0, 2)]
    on_host = [array.cpu().numpy() for array in (log_probs.double(), targets, *lengths)]
    expected_paths, expected_scores = client.forced_align(*on_host, star_score=star_score)
    assert np.array_equal(paths.cpu().numpy(), expected_paths)
    assert np.array_equal(frame_scores.double().cpu().numpy(), expected_scores)


def test_a_shortage_of_memory_splits_what_lies_on_the_device_too(
    client: AlignClient, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignd_kernels.mas import gpu

    run, asked = gpu.align, []

    def short(batch: Any, device: str) -> Any:
        asked.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        return run(batch, device)

    monkeypatch.setattr(gpu, "align", short)
    values = [scores(2 + seed, 7, seed=seed, where=where) for seed in range(5)]
    check_mas(values, list(client.align_mas(values)))
    assert asked[0] == 5


class Mark:
    """Stands for a CUDA event."""

    def __init__(self) -> None:
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1


class Stream:
    """Stands for a CUDA stream, on which `made` are queued already."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def record_event(self) -> Mark:
        self.marks.append(Mark())
        return self.marks[-1]


def test_a_request_has_one_mark_for_each_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    one, other = Stream(), Stream()
    x = scores(6, 4)
    apart, again = scores(2, 4), scores(2, 4)
    given = [DeviceTensor(x[:2], one), DeviceTensor(x[2:], one), DeviceTensor(apart, other), DeviceTensor(again.T, one)]
    found = pieces(end_to_end_there(given))
    assert [piece.tensor.tolist() for piece in found] == [
        x.flatten().tolist(),
        apart.flatten().tolist(),
        again.T.flatten().tolist(),
    ]
    assert [len(stream.marks) for stream in (one, other)] == [1, 1]
    assert all(piece.ready == (one.marks[0], other.marks[0]) for piece in found)
    assert [len(piece.tensor) for piece in pieces(cut(tuple(found), 20, 28))] == [4, 4]


def test_a_stream_that_is_being_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    stream = Stream()
    with pytest.raises(RuntimeError, match="CUDA graph"):
        end_to_end_there([DeviceTensor(scores(2, 4), stream)])
    assert not stream.marks


def test_a_launch_waits_for_each_mark_once(where: str, device: str) -> None:
    mark, one = Mark(), np.array([1, 1])
    values = tuple(DeviceArray(torch.zeros(3, device=where), (mark,)) for _ in range(2))
    engine: Engine = create_engine(device, audio=False)
    with contextlib.closing(engine):
        reply = engine.submit("MaximumPath", MasRequest(values, DataType.FLOAT32, one, 3 * one)).result(60)
    assert reply.durations.tolist() == [3, 3]
    assert mark.waited == 1


def test_requests_on_the_device_share_no_launch_with_others() -> None:
    one = np.array([1])
    key = MasOperation().key
    there, here = DeviceArray(torch.zeros(1)), np.zeros(1, np.float32)
    assert key(MasRequest(there, DataType.FLOAT32, one, one)) == key(MasRequest((there,), DataType.FLOAT32, one, one))
    assert key(MasRequest(there, DataType.FLOAT32, one, one)) != key(MasRequest(here, DataType.FLOAT32, one, one))


def test_no_message_takes_them() -> None:
    one = np.array([1])
    with pytest.raises(TypeError, match="do not travel"):
        MAXIMUM_PATH.encode_request(MasRequest(DeviceArray(torch.zeros(1)), DataType.FLOAT32, one, one))


@pytest.mark.parametrize("devices", [["cpu"], [None], ["cuda:0", "cuda:1"], []])
def test_only_where_every_request_runs_on_one_device(monkeypatch: pytest.MonkeyPatch, devices: list[Any]) -> None:
    fake_engine.install(monkeypatch)
    found = tuple(SimpleNamespace(torch_device=device) for device in devices)
    monkeypatch.setattr(fake_engine.FakeEngine, "devices", found, raising=False)
    assert LocalEngine("cuda", None).torch_device == ("cpu" if devices == ["cpu"] else None)


def on_a_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """What needs streams."""
    return pytest.mark.gpu(pytest.mark.parametrize("where", ["cuda:0"], indirect=True)(test))


def slowly(value: torch.Tensor) -> torch.Tensor:
    """A copy, queued on the current stream behind about half a second of work."""
    busy = torch.ones(4096, 4096, device=value.device)
    out = torch.full_like(value, torch.nan)
    for _ in range(200):
        busy = (busy @ busy).clamp(0, 1)
    return out.copy_(value + 0 * busy[0, 0])


@pytest.fixture
def gpu(where: str, client: AlignClient) -> str:
    slowly(torch.zeros(1, device=where)).cpu()  # loads its libraries
    return where


@on_a_gpu
@each_family
@pytest.mark.parametrize("own_stream", [False, True])
def test_a_producer_that_still_runs_is_waited_for(client: AlignClient, gpu: str, family: str, own_stream: bool) -> None:
    given = scores(6, 7, where=gpu)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream(gpu)) if own_stream else contextlib.nullcontext():
        value = slowly(given)
        done = torch.cuda.current_stream().record_event()
        assert not done.query(), "the producer was too fast for the test"
        answers = align(client, family, [value])
    CHECKS[family]([given], answers)


@on_a_gpu
def test_copies_of_what_an_iterator_makes_on_streams_of_its_own(client: AlignClient, gpu: str) -> None:
    values = [scores(6, 7, seed=seed, where=gpu) for seed in range(4)]
    torch.cuda.synchronize()

    def made() -> Iterator[torch.Tensor]:
        for value in values:
            with torch.cuda.stream(torch.cuda.Stream(gpu)):
                yield slowly(value)

    check_mas(values, list(client.align_mas(made())))


@on_a_gpu
def test_threads_with_streams_of_their_own(client: AlignClient, gpu: str) -> None:
    together = threading.Barrier(2)

    def work(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream(gpu)):
            together.wait(30)
            for turn in range(20):
                values = [scores(40, 200 + turn, seed=seed + turn + i).to(gpu, non_blocking=True) * 1 for i in range(8)]
                check_mas(values, list(client.align_mas(values)))
                del values  # for the allocator to hand out again

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, 1000 * seed) for seed in range(2)]:
            future.result(200)


@on_a_gpu
def test_tensors_elsewhere_go_through_host_memory(client: AlignClient, gpu: str) -> None:
    values = [scores(6, 7, seed=seed, where=gpu if seed % 2 else "cpu") for seed in range(4)]
    check_mas(values, list(client.align_mas(values)))


@on_a_gpu
def test_not_within_a_graph(client: AlignClient, gpu: str) -> None:
    value = scores(6, 7, where=gpu)
    torch.cuda.synchronize()
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="CUDA graph"):
        list(client.align_mas([value]))
    check_mas([value], list(client.align_mas([value])))
