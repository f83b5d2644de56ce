"""The pool of threads, and kernels under many callers, after a fork, and cached between processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kernels.strategies import mas_batch, normal, same_results

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu
from alignd_kernels.threads import INLINE_CELLS, WorkerPool, available_cpus, default_pool

BIG = INLINE_CELLS  # cells of one item, so that two are worth sharing


@pytest.mark.parametrize(
    "cells", [[BIG], [BIG] * 2, [BIG] * 50, [1, BIG * 9, 1, 1], [0] * 7 + [BIG] * 3 + [0] * 7, [1] * 9]
)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_done_once(cells: list[int], threads: int) -> None:
    done = np.zeros(len(cells), np.int64)

    def work(start: int, stop: int) -> None:
        assert start < stop
        done[start:stop] += 1

    with WorkerPool(threads) as pool:
        pool.run(work, np.array(cells, np.int64))
    assert done.tolist() == [1] * len(cells)


def test_small_batches_stay_on_the_calling_thread() -> None:
    seen = set()
    with WorkerPool(4) as pool:
        pool.run(lambda start, stop: seen.add(threading.get_ident()), np.ones(100, np.int64))
    assert seen == {threading.get_ident()}


def test_large_batches_are_shared() -> None:
    both = threading.Barrier(2, timeout=10)  # passes only if two threads work at once
    with WorkerPool(2) as pool:
        waited = iter([True, True])
        pool.run(lambda start, stop: both.wait() if next(waited, False) else None, np.full(8, BIG))
    assert not both.broken


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (7, 5), (0, 3), (3, 0)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_block_of_a_grid_comes_after_its_left_and_upper_neighbours(rows: int, columns: int, threads: int) -> None:
    done: set[tuple[int, int]] = set()

    def work(row: int, column: int) -> None:
        assert row == 0 or (row - 1, column) in done
        assert column == 0 or (row, column - 1) in done
        assert (row, column) not in done
        done.add((row, column))

    with WorkerPool(threads) as pool:
        pool.run_grid(work, rows, columns)
        pool.shutdown()
        done_once, done = done, set()
        pool.run_grid(work, rows, columns)
    assert done_once == done == {(r, c) for r in range(rows) for c in range(columns)}


def test_blocks_of_a_grid_are_shared_among_threads() -> None:
    both = threading.Barrier(2, timeout=10)  # passes only if the two blocks of a diagonal are done at once
    with WorkerPool(2) as pool:
        pool.run_grid(lambda row, column: both.wait() if row + column == 1 else None, 2, 2)
    assert not both.broken


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_block_reaches_the_caller(threads: int) -> None:
    seen = set()

    def work(row: int, column: int) -> None:
        seen.add((row, column))
        if (row, column) == (2, 3):
            raise MemoryError("from a block")

    with WorkerPool(threads) as pool, pytest.raises(MemoryError, match="from a block"):
        pool.run_grid(work, 6, 6)
    assert (5, 5) not in seen


INTERRUPTED = """
import faulthandler, random, signal, threading, time
from alignd_kernels.threads import WorkerPool

faulthandler.dump_traceback_later(60, exit=True)
generator, interrupts, armed = random.Random(1), 0, False
pool = WorkerPool(3)

def interrupted(*_):
    global armed
    if armed:
        armed = False  # once a grid
        raise KeyboardInterrupt

def interrupt():
    while True:
        time.sleep(generator.random() * 0.004)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

signal.signal(signal.SIGINT, interrupted)
threading.Thread(target=interrupt, daemon=True).start()
for _ in range(500):
    try:
        armed = True
        pool.run_grid(lambda row, column: sum(range(200)), 16, 16)
        armed = False
    except KeyboardInterrupt:
        interrupts += 1
done = []
pool.run_grid(lambda row, column: done.append((row, column)), 8, 8)
assert len(done) == 64, len(done)
print(interrupts)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads on this system")
def test_an_interrupt_at_any_place_ends_a_grid() -> None:
    """A process of its own, which would be killed if it hung."""
    found = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 10


@pytest.mark.parametrize("error", [MemoryError, IndexError, KeyboardInterrupt])
@pytest.mark.parametrize("bad", [0, 17, 39])
def test_an_error_reaches_the_caller(error: type[BaseException], bad: int) -> None:
    def work(start: int, stop: int) -> None:
        if start <= bad < stop:
            raise error("from a range")

    with WorkerPool(3) as pool:
        with pytest.raises(error, match="from a range"):
            pool.run(work, np.full(40, BIG))
        pool.run(lambda start, stop: None, np.full(40, BIG))


def test_a_pool_that_was_shut_down_still_works() -> None:
    pool = WorkerPool(2)
    pool.run(lambda start, stop: None, np.full(4, BIG))
    pool.shutdown()
    pool.shutdown()
    done = []
    pool.run(lambda start, stop: done.append((start, stop)), np.full(4, BIG))
    assert done == [(0, 4)]


def test_a_pool_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="at least 1 thread"):
        WorkerPool(0)
    assert default_pool() is default_pool()
    assert default_pool().threads == available_cpus() >= 1


def test_concurrent_callers_get_their_own_results() -> None:
    rng = np.random.default_rng(0)
    batches = [mas_batch([normal(rng, (60, 200)) for _ in range(20)], DType.FLOAT32) for _ in range(8)]
    expected = [cpu.align(batch) for batch in batches]
    with WorkerPool(2) as pool, ThreadPoolExecutor(8) as callers:
        for _ in range(5):
            for one, other in zip(callers.map(lambda batch: cpu.align(batch, pool), batches), expected):
                same_results(one, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_pool_works_after_a_fork() -> None:
    batch = mas_batch([normal(np.random.default_rng(1), (60, 200)) for _ in range(40)], DType.FLOAT32)
    with WorkerPool(2) as pool:
        expected = cpu.align(batch, pool)
        child = os.fork()
        if child == 0:
            try:
                same_results(cpu.align(batch, pool), expected)
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        same_results(cpu.align(batch, pool), expected)


def run(code: str, **environment: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, **environment}).strip()


def test_kernels_are_compiled_once_for_all_processes(tmp_path: Path) -> None:
    code = (
        "import alignd_kernels as ak; from alignd_kernels.mas import cpu\n"
        "cpu.warm_up([ak.DType.FLOAT16]); print(ak.compile_seconds())\n"
        "print(*cpu._align_range.inspect_asm().values())"  # what is loaded has none
    )
    seconds, *assembly = run(code, ALIGND_CACHE_DIR=str(tmp_path)).split()
    assert float(seconds) > 0
    # Float16 is widened by arithmetic, which must not be fused.
    assert any("add" in word for word in assembly)
    assert not any(re.match(r"vfn?m(add|sub)|fn?m(add|sub|la|ls)$", word) for word in assembly)
    assert float(run(code, ALIGND_CACHE_DIR=str(tmp_path)).split()[0]) == 0
    assert list(tmp_path.rglob("*.nbc"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code = "from alignd_kernels.compile_cache import cache_folder; print(cache_folder())"
    nowhere = str(tmp_path / "file" / "below")
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    folder = run(code, ALIGND_CACHE_DIR=nowhere, XDG_CACHE_HOME=nowhere, TMPDIR=str(elsewhere))
    assert Path(folder).is_relative_to(elsewhere)


def test_other_users_of_numba_keep_their_settings() -> None:
    code = (
        "from numba import config; before = config.CACHE_DIR\n"
        "import alignd_kernels as ak, alignd_kernels.mas.cpu; print(config.CACHE_DIR == before)"
    )
    assert run(code) == "True"


def test_nothing_is_compiled_after_warm_up() -> None:
    code = (
        "import numpy as np, alignd_kernels as ak\n"
        "ak.warm_up(); before = ak.compile_seconds()\n"
        "for kind in (np.float16, np.float32, np.float64):\n"
        "    buffer = np.frombuffer(np.zeros((2, 6, 4), kind).tobytes(), kind).reshape(2, 6, 4)\n"
        "    ak.forced_align(buffer, np.ones((2, 1), np.int32)); ak.forced_align(buffer[::-1], np.ones((2, 1), int))\n"
        "    ak.maximum_path(buffer.transpose(0, 2, 1), np.ones((2, 4, 6), kind))\n"
        "print(ak.compile_seconds() == before)"
    )
    assert run(code) == "True"


def test_kernels_need_no_particular_processor() -> None:
    """With the instructions that every 64-bit processor of the family has, and no others."""
    code = (
        "import numpy as np\n"
        "from alignd_kernels import DType\n"
        "from alignd_kernels.ctc import cpu as ctc\n"
        "from alignd_kernels.mas import cpu as mas\n"
        "from kernels.strategies import check_ctc, check_mas, ctc_batch, dyadic, mas_batch, random_targets\n"
        "rng = np.random.default_rng(0)\n"
        "batch = mas_batch([dyadic(rng, (40, 90)), dyadic(rng, (5, 7))], DType.FLOAT64)\n"
        "check_mas(batch, mas.align(batch))\n"
        "items = [(dyadic(rng, (70, V)), random_targets(rng, 25, V, 1), 1, -0.5) for V in (7, 40)]\n"
        "batch = ctc_batch(items, DType.FLOAT16)\n"
        "check_ctc(batch, ctc.align(batch))\n"
        "print('equal')"
    )
    path = os.pathsep.join(filter(None, sys.path))
    assert run(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", PYTHONPATH=path) == "equal"
