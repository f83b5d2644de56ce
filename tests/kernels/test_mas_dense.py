"""Padded paths in memory that was used before: nothing of what stood there is left, nothing else is touched."""

import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch

import alignd_kernels as ak
from alignd_kernels import spare
from alignd_kernels.mas import dense

SIZES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also arrays of a byte are kept, so that small ones show what large ones do."""
    monkeypatch.setattr(spare, "LEAST_BYTES", 1)
    spare._kept.clear()


def test_memory_is_lent_again_when_nothing_refers_to_it() -> None:
    first, stale = spare.borrow(1000)
    assert not stale
    assert not first.any()
    assert first.ctypes.data % 64 == 0
    address, inner = first.ctypes.data, first[10:20].view(np.int16)
    first[:] = 7
    del first
    other, stale = spare.borrow(1000)
    assert not stale, "a view of the first is alive"
    assert (inner == 0x0707).all()
    del inner
    again, stale = spare.borrow(900)
    assert stale
    assert again.ctypes.data == address
    assert len(again) == 900
    assert not other.any()


def test_a_tensor_keeps_what_it_sees() -> None:
    tensor = torch.from_numpy(spare.borrow(4000)[0].view(np.float32)).view(10, 100)
    assert not spare.borrow(4000)[1]
    assert spare._kept, "the second was let go"
    spare._kept.clear()
    del tensor
    gc.collect()
    assert spare.borrow(4000)[1]


@pytest.mark.parametrize(("nbytes", "stale"), [(1000, True), (500, True), (499, False), (1001, False)])
def test_memory_much_too_large_is_freed_rather_than_lent(nbytes: int, stale: bool) -> None:
    spare.borrow(1000)
    found, used = spare.borrow(nbytes)
    assert used is stale
    assert len(found) == nbytes
    assert not spare._kept


def test_only_sizes_worth_keeping_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LEAST_BYTES", 100)
    monkeypatch.setattr(spare, "MOST_BYTES", 200)
    for nbytes in (0, 99, 201):
        spare.borrow(nbytes)
        assert not spare._kept
    spare.borrow(200)
    assert sum(len(piece.memory) for piece in spare._kept) == 200


def test_few_pieces_are_kept_and_the_oldest_freed() -> None:
    sizes = (1000, 1001, 1002, 1003, 1004)
    lent = [spare.borrow(size)[0] for size in sizes]
    while lent:
        lent.pop(0)
    assert [len(piece.memory) for piece in spare._kept] == [1001, 1002, 1003, 1004]
    first, second = spare.borrow(600), spare.borrow(600)
    assert (first[1], second[1]) == (True, True)
    assert [len(piece.memory) for piece in spare._kept] == [1001, 1002], "those let go last are lent first"
    assert not spare.borrow(5000)[1]
    assert [len(piece.memory) for piece in spare._kept] == [1002, 5000]


def test_at_most_so_many_bytes_are_kept() -> None:
    large = spare.MOST_BYTES // 2 + 1
    one, other = spare.borrow(large)[0], spare.borrow(large)[0]
    del one
    assert len(spare._kept) == 1
    del other
    assert len(spare._kept) == 1


def test_an_empty_array_of_borrowed_memory() -> None:
    array = spare.empty((3, 5), np.float64)
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, 5), np.dtype(np.float64), True)
    address = array.ctypes.data
    del array
    again = spare.empty((4, 7), np.float32)
    assert again.ctypes.data == address
    assert spare.empty((0, 7), np.float32).shape == (0, 7)


def test_threads_that_borrow_at_once_get_memory_of_their_own() -> None:
    wrong = []

    def work(mark: int) -> None:
        for _ in range(300):
            mine, _ = spare.borrow(5000)
            mine[:] = mark
            again, _ = spare.borrow(5000)
            again[:] = 255
            wrong.append(not (mine == mark).all())

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 1200
    assert not any(wrong)


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32, np.int64])
@pytest.mark.parametrize("turned", [False, True])
def test_a_path_in_memory_used_before_is_that_in_fresh_memory(kind: Any, turned: bool) -> None:
    rng = np.random.default_rng(0)
    for S in SIZES:
        value = rng.integers(-6, 1, (3, S, S + 20)).astype(np.float32)
        value[1, 0, 0] = np.nan  # an item that fails is all zeros
        mask = np.zeros_like(value)
        for b, (tokens, frames) in enumerate([(S, S + 20), (S, S + 3), (max(S // 2, 1), S)]):
            mask[b, :tokens, :frames] = 1
        if turned:
            value, mask = (np.ascontiguousarray(array.transpose(0, 2, 1)).transpose(0, 2, 1) for array in (value, mask))
        spare._kept.clear()
        fresh, statuses = ak.maximum_path(value, mask, kind, check=False)
        expected = fresh.copy()
        assert (statuses == ak.Status.OK).tolist() == [True, False, True]
        assert expected.sum(axis=(1, 2)).tolist() == [S + 20, 0, S]
        fresh[...] = 1
        address = fresh.ctypes.data
        del fresh
        again, _ = ak.maximum_path(value, mask, kind, check=False)
        assert again.ctypes.data == address
        np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("word", dense.WORDS.values())
def test_what_lies_around_the_paths_stays(word: Any) -> None:
    for cells in SIZES:
        for before in range(64 // np.dtype(word).itemsize + 1):
            around = np.full(before + 2 * cells + 70, 9, word)
            paths = around[before : before + 2 * cells]
            table = np.array([[0, cells], [1, 1], [cells, cells]])  # two items of one token, all frames
            durations = np.array([cells, cells - 1], np.int32)
            dense._paint(paths, word(1), table, False, True, np.zeros(1, np.int64), durations)
            assert paths.tolist() == [1] * (2 * cells - 1) + [0]
            assert (around[:before] == 9).all()
            assert (around[before + 2 * cells :] == 9).all()
