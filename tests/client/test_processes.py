"""A client that is forked, spawned and pickled; and what importing it costs."""

import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from alignd_client import AlignClient, ForkError
from alignd_client.aio import AsyncAlignClient
from alignd_client.arrays import words_of
from alignd_client.per_process import PerProcess
from support.blocking import Blocking
from support.fake_server import FakeServer

SERVER = """
import sys
from support.fake_server import FakeServer
with FakeServer() as server:
    print(server.target, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def target() -> Any:
    """Of a server in another process: a fork of this one must not carry it along."""
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{SERVER}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def frames_of(client: AlignClient, count: int = 3) -> list[int]:
    values = [np.zeros((1, i + 1), np.float32) for i in range(count)]
    return [len(alignment.path) for alignment in client.align_mas(values)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_client_in_worker_processes(target: str, method: str) -> None:
    with AlignClient(target) as client:
        assert frames_of(client) == [1, 2, 3]  # connected, with threads, before the fork
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:  # fork's workers inherit the parent's channel
            futures = [pool.submit(frames_of, client, i) for i in range(1, 5)]
            assert [future.result(timeout=60) for future in futures] == [list(range(1, i + 1)) for i in range(1, 5)]
        assert frames_of(client) == [1, 2, 3]


def answer(client: AlignClient, queue: Any) -> None:
    queue.put(frames_of(client))


@pytest.fixture
def threaded() -> Any:
    """torch with threads of its own, which no fork takes along: what waits for them waits for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1 << 20).exp()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("strided", [False, True])
def test_padded_tensors_after_a_fork(target: str, threaded: None, strided: bool) -> None:
    frames, targets = 40_000, torch.tensor([[1, 2]])
    log_probs = torch.zeros(1, frames, 256, dtype=torch.float64)
    log_probs = log_probs[:, :, ::2] if strided else log_probs
    with AlignClient(target) as client:
        paths, scores = in_a_fork(lambda: [one.tolist() for one in client.forced_align(log_probs, targets)])
    assert {*paths[0]} == {1, 2}
    assert scores == [[0.0] * frames]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_padded_paths_after_a_fork(target: str, threaded: None, dtype: torch.dtype) -> None:
    tokens, frames = 30, 4000
    value, mask = torch.zeros(1, tokens, frames), torch.ones(1, tokens, frames, dtype=dtype)
    with AlignClient(target) as client:
        shape, kind, ones, most = in_a_fork(lambda: told(client.maximum_path(value, mask, dtype)))
    assert (shape, kind, ones) == ((1, tokens, frames), str(dtype), frames)
    assert most == 1


def told(path: Any) -> tuple[Any, ...]:
    """Shape, type, the number of ones, and the most cells of a frame that are not zero; without torch's threads."""
    cells, one = words_of(path), words_of(torch.ones(1, dtype=path.dtype))
    return tuple(path.shape), str(path.dtype), int((cells == one).sum()), int((cells != 0).sum(1).max())


def in_a_fork(work: Any) -> Any:
    """What `work` gives in a child, which is killed if it does not come."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(work()))
    child.start()
    try:
        return queue.get(timeout=30)
    finally:
        child.kill()
        child.join()


def test_a_fork_while_calls_are_in_flight(target: str) -> None:
    with AlignClient(target) as client:
        stop = threading.Event()
        failures: list[BaseException] = []

        def keep_busy() -> None:
            try:
                while not stop.is_set():
                    assert frames_of(client) == [1, 2, 3]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=keep_busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            queue = context.Queue()
            # Inherited, not pickled: the child finds the parent's client as it was.
            child = context.Process(target=answer, args=(client, queue))
            child.start()
            assert queue.get(timeout=30) == [1, 2, 3]
            child.join(30)
            assert child.exitcode == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []


def use_both(asynchronous: AsyncAlignClient, target: str, queue: Any) -> None:
    gc.collect()  # of what was the parent's
    try:
        frames_of(Blocking(asynchronous))  # type: ignore[arg-type]
    except ForkError as error:
        queue.put(str(error))
    with AlignClient(target) as client:
        queue.put(frames_of(client))


def test_an_asyncio_client_says_that_it_was_forked(target: str) -> None:
    context = multiprocessing.get_context("fork")
    asynchronous = AsyncAlignClient(target)
    for _ in range(3):  # without the last channels having been closed, or collected
        assert frames_of(Blocking(asynchronous)) == [1, 2, 3]  # type: ignore[arg-type]
        queue = context.Queue()
        child = context.Process(target=use_both, args=(asynchronous, target, queue))
        child.start()
        assert "spawn" in queue.get(timeout=30)
        assert queue.get(timeout=30) == [1, 2, 3]
        child.join(30)
        assert child.exitcode == 0


def test_pickling_keeps_the_options(target: str) -> None:
    with AlignClient(target, timeout=7.0, max_in_flight=3, max_message_bytes=12_345) as client:
        frames_of(client)
        with pickle.loads(pickle.dumps(client)) as copy:
            assert frames_of(copy) == [1, 2, 3]
            assert copy._options == client._options
    asynchronous = AsyncAlignClient(target, timeout=7.0)
    copied = pickle.loads(pickle.dumps(asynchronous))
    assert copied._options == asynchronous._options
    with Blocking(copied) as blocking:
        assert frames_of(blocking) == [1, 2, 3]  # type: ignore[arg-type]


def test_an_asyncio_client_in_one_loop_after_another(target: str) -> None:
    client = AsyncAlignClient(target)
    for _ in range(2):
        with Blocking(client) as blocking:
            assert frames_of(blocking) == [1, 2, 3]  # type: ignore[arg-type]
            client = pickle.loads(pickle.dumps(client))
    first, second = Blocking(client), Blocking(client)
    assert frames_of(first) == frames_of(second) == frames_of(first)  # type: ignore[arg-type]
    first.close()


def test_per_process_makes_one_value_for_all_threads() -> None:
    made: list[object] = []
    barrier = threading.Barrier(8)
    one = PerProcess(lambda: made.append(object()) or made[-1])

    def use() -> None:
        barrier.wait()
        one.get()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert one.take() is made[0]
    assert one.peek() is None


@pytest.mark.parametrize("module", ["alignd_client", "alignd_client.aio", "alignd_client.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "numba", "triton", "grpc", "alignd_server", "alignd_kernels", "google.rpc"}
    code = f"import sys; sys.path[:] = {sys.path!r}\nimport {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_server_of_these_tests_is_in_this_process(server: FakeServer) -> None:
    """Its thread pool would not survive the forks above, hence `target`."""
    with AlignClient(server.target) as client:
        assert frames_of(client) == [1, 2, 3]
