# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Paths as padded arrays of zeros and ones (Numba)."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from alignd_kernels import spare
from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.numba_helpers import take_next
from alignd_kernels.threads import WorkerPool

WORDS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""What a value of any dtype is written as: its bits."""

CACHE_LINE: Final = 64


@intrinsic
def _stream_zeros(typing_context: Any, address: Any) -> Any:
    """Zero a cache line in memory without reading it into the caches first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = ir.VectorType(ir.IntType(64), CACHE_LINE // 8)
        store = builder.store(ir.Constant(line, [0] * line.count), builder.inttoptr(args[0], line.as_pointer()))
        store.align = CACHE_LINE
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _finish_streams(typing_context: Any) -> Any:
    """What was streamed is seen by other threads before anything that is written later."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def dense_paths(batch: MasBatch, result: MasResult, one: npt.NDArray[Any], pool: WorkerPool) -> npt.NDArray[Any]:
    """Zeros, and `one` where a path is, at the same indices as the batch's values.

    Args:
        batch: items in one buffer, in the order of their offsets.
        result: of that batch. A failed item has no durations, and so gets zeros.
        one: [1], of the dtype wanted.
        pool: shares the writing.

    Returns:
        1-D, of the dtype of `one`, as long as `batch.values`.
    """
    assert not isinstance(batch.values, tuple)
    word = WORDS[one.dtype.itemsize]
    raw, stale = spare.borrow(len(batch.values) * one.dtype.itemsize)
    paths = raw.view(word)
    table = np.stack([batch.offsets, batch.tokens, batch.pitches]).astype(np.int64, copy=False)
    cursor = np.zeros(1, np.int64)

    def work() -> None:
        _paint(paths, one.view(word)[0], table, batch.frames_first, stale, cursor, result.durations)

    pool.run_everywhere(work, batch.frames * 16)  # a frame costs as much as 16 cells of the lattice
    return paths.view(one.dtype)


def warm_up() -> None:
    """Compile the kernel for all sizes of words, or load it from the cache."""
    ones = np.ones(1, np.int64)
    for word in WORDS.values():
        _paint(np.zeros(1, word), word(1), np.ones((3, 1), np.int64), False, False, ones, np.zeros(1, np.int32))


@kernel
def _paint(paths, one, table, frames_first, stale, cursor, durations):
    """The items that `cursor` gives, on this thread; of `stale` memory, what lies before the next item is zeroed."""
    items = table.shape[1]
    while True:
        b = take_next(cursor)
        if b >= items:
            break
        if stale:
            first = table[0, b] if b > 0 else 0
            _clear(paths[first : table[0, b + 1] if b + 1 < items else len(paths)])
        begin = 0
        for before in range(b):
            begin += max(table[1, before], 0)
        along = table[2, b] if frames_first else 1
        across = 1 if frames_first else table[2, b]
        t = 0
        for s in range(table[1, b]):
            cell = table[0, b] + s * across
            for at in range(t, t + durations[begin + s]):
                paths[cell + at * along] = one
            t += durations[begin + s]


@part
def _clear(words):
    """Zeros."""
    size = words.itemsize
    begin, end = words.ctypes.data, words.ctypes.data + len(words) * size
    first, last = (begin + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE, end // CACHE_LINE * CACHE_LINE
    if first >= last:
        words[:] = 0
        return
    words[: (first - begin) // size] = 0
    words[(last - begin) // size :] = 0
    for line in range(first, last, CACHE_LINE):
        _stream_zeros(line)
    _finish_streams()
