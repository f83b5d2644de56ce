"""Of a large vocabulary the columns of an item's own labels travel, and nothing that a caller sees tells so."""

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd.wire import DataType
from alignd_client import STAR, ItemCode, MessageTooLargeError
from alignd_client.arrays import NUMPY
from alignd_client.ctc import CtcFamily, Pairs
from alignd_client.ctc_columns import (
    ALONE_BYTES,
    LEAST_COLUMNS,
    LEAST_VOCABULARY,
    REQUEST_BYTES,
    Columns,
    renumbered,
    taken,
)
from alignd_client.packing import Packer, PackingLimits
from alignd_kernels.ctc import reference
from support.fake_server import FakeServer
from support.reference_answers import server_info

V = 1000
TARGETS = [[5, 900, 5, 5], [STAR, 999, 3, STAR], [8], [0, 1, 0, 999, 1]]
BLANK = 777


def emissions(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Log-scores on a dyadic grid, exact in every dtype."""
    return (-np.random.default_rng(seed).integers(0, 32, shape) / 8).astype(np.float32)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, what can share a request does."""
    monkeypatch.setattr("alignd_client.packing.PATIENCE_S", math.inf)


def vocabularies(server: FakeServer) -> list[int]:
    """Of the requests; those sent at once arrive in any order."""
    return sorted(seen.request.vocabulary_size for seen in server.seen["ForcedAlign"])


def test_few_columns_travel(connect: Any, server: FakeServer) -> None:
    """0.6 MB, as a vocabulary of 5,000 makes them, are 8 KB."""
    log_probs, targets = emissions(2, 30, 5000), np.full((2, 3), 4999)
    client = connect()
    list(client.align_ctc(log_probs, targets))
    list(client.align_ctc(list(log_probs), list(targets)))
    list(client.align_ctc(iter(log_probs), iter(targets)))
    client.forced_align(torch.from_numpy(log_probs), targets)
    list(client.ctc_posteriors(log_probs, targets))
    calls = [*server.seen["ForcedAlign"], *server.seen["CtcPosteriors"]]
    assert [len(call.request) for call in calls] == [2] * 5
    for call in calls:
        assert log_probs.nbytes > 1.1e6
        assert call.nbytes < 2 * 30 * LEAST_COLUMNS * 4 + 200
        assert call.request.targets.tolist() == [1] * 6


KINDS: dict[str, Callable[[npt.NDArray[np.float32]], Any]] = {
    "float32": np.asarray,
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "of the other byte order": lambda x: x.astype(">f4"),
    "columns first": np.asfortranarray,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "bfloat16 tensors": lambda x: torch.from_numpy(x).bfloat16(),
    "float16 tensors": lambda x: torch.from_numpy(x).half(),
    "strided tensors with a gradient": lambda x: torch.from_numpy(x.T.copy()).T.requires_grad_(),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_items_match_the_reference(connect: Any, server: FakeServer, kind: Any) -> None:
    matrices = [emissions(33, V, seed=seed) for seed in range(len(TARGETS))]
    results = connect().align_ctc([kind(x) for x in matrices], TARGETS, blank=BLANK, star_score=-1.5)
    for x, targets, found in zip(matrices, TARGETS, results, strict=True):
        expected = reference.forced_align(x, np.array(targets), BLANK, -1.5)
        labels = [targets[state // 2] if state % 2 else BLANK for state in expected.path.tolist()]
        assert isinstance(found.path, type(kind(x)))
        assert found.path.tolist() == expected.path.tolist()
        assert found.labels.tolist() == labels
        assert found.frame_scores.tolist() == expected.frame_scores.tolist()
        assert found.score == expected.score
        assert [span.token for span in found.spans] == found.targets.tolist() == targets
        assert found.blank == BLANK
    assert vocabularies(server) == [LEAST_COLUMNS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("star_score", [-1.5, "max"])
def test_padded_batches_match_the_reference(connect: Any, server: FakeServer, dtype: Any, star_score: Any) -> None:
    x, targets = emissions(2, 40, V), np.array([[5, 900, 5], [STAR, 3, 0]])
    given = torch.from_numpy(x).to(dtype).requires_grad_()
    paths, scores = connect().forced_align(given, targets, [40, 34], [3, 2], blank=BLANK, star_score=star_score)
    assert scores.dtype == dtype
    for b, (T, L) in enumerate(((40, 3), (34, 2))):
        own, star = targets[b, :L], np.nan if star_score == "max" else star_score
        expected = reference.forced_align(x[b, :T], own, BLANK, star)
        wanted = [own[state // 2] if state % 2 else BLANK for state in expected.path.tolist()]
        assert paths[b].tolist() == wanted + [BLANK] * (40 - T)
        assert scores[b].tolist() == expected.frame_scores.tolist() + [0] * (40 - T)
    assert vocabularies(server) == ([LEAST_COLUMNS, V] if star_score == "max" else [LEAST_COLUMNS])


def test_utterances_of_many_lengths_and_vocabularies_share_a_request(connect: Any, server: FakeServer) -> None:
    counts, sizes = [1, 40, 3, 60], [V, 2 * V, 300, V]
    targets = [np.arange(1, 1 + count) for count in counts]
    given = [emissions(count + 60, size) for count, size in zip(counts, sizes)]
    results = connect().align_ctc(given, targets)
    assert [len(result.spans) for result in results] == counts
    assert vocabularies(server) == [LEAST_COLUMNS]


def test_a_whole_item_has_another_blank_than_a_reduced_one(connect: Any, server: FakeServer) -> None:
    given = [emissions(17, size, seed=size) for size in (LEAST_COLUMNS, V, LEAST_COLUMNS)]
    for x, found in zip(given, connect().align_ctc(given, [[3, 0]] * 3, blank=9), strict=True):
        assert found.path.tolist() == reference.forced_align(x, np.array([3, 0]), 9).path.tolist()
    assert [seen.request.vocabulary_size for seen in server.seen["ForcedAlign"]] == [LEAST_COLUMNS] * 3


def test_what_must_travel_whole_does(connect: Any, server: FakeServer) -> None:
    x, all_of_half = emissions(130, LEAST_VOCABULARY), np.arange(1, 1 + LEAST_VOCABULARY // 2)
    few = all_of_half[:-1]
    bad = [[1, 0], [1, LEAST_VOCABULARY], [1, -2], []]
    given = [few, [STAR, 1], few, all_of_half, *bad]
    found = list(connect().align_ctc([x] * len(given), given, star_score="max", on_error="return"))
    codes = [ItemCode.TARGET_IS_BLANK, ItemCode.TARGET_OUT_OF_RANGE, ItemCode.TARGET_OUT_OF_RANGE, ItemCode.EMPTY]
    assert [one.status.code for one in found] == [ItemCode.OK] * 4 + codes
    assert sorted((seen.request.vocabulary_size, len(seen.request)) for seen in server.seen["ForcedAlign"]) == [
        (LEAST_COLUMNS, 1),
        (LEAST_VOCABULARY, 7),
    ]


MIXED: dict[str, tuple[list[tuple[int, int, int]], list[int]]] = {
    "numbers of labels": ([(120, 256, 100), (120, 256, 40)] * 12, [24]),
    "the smaller first": ([(120, 256, 40), (120, 256, 100), (120, 256, 60)] * 8, [1, 23]),
    "whole and not": ([(150, 128, 50), (150, 128, 70)] * 12, [1, 23]),
    "vocabularies": ([(200, 300, 100), (200, 9000, 100), (90, 200, 40)] * 8, [24]),
    "sizes": ([(10, 1000, 5), (100, 1000, 5), (16, 1000, 5)] * 8, [1, 23]),
    "none is large": ([(20, 128, 5), (100, 128, 60), (100, 128, 90)] * 8, [24]),
}


@pytest.mark.parametrize(("shapes", "expected"), MIXED.values(), ids=MIXED)
def test_neighbours_of_mixed_widths_share_a_request(shapes: list[tuple[int, int, int]], expected: list[int]) -> None:
    """Frames, vocabulary and labels of each, and how many items each request has."""
    arrays = {shape: np.zeros(shape[:2], np.float32) for shape in shapes}
    packer = Packer(CtcFamily(reduces=True), PackingLimits())
    packed = [parcel for shape in shapes for parcel in packer.push((arrays[shape], np.arange(1, 1 + shape[2])))]
    assert [parcel.count for parcel in [*packed, *packer.flush()]] == expected


def widths(*shapes: tuple[int, int, int]) -> list[int]:
    """Columns of items of one call, given their frames, vocabulary and labels."""
    columns = Columns(0, 0.0)
    found = []
    for frames, vocabulary, labels in shapes:
        targets = np.arange(1, 1 + labels, dtype=np.int32)
        item = columns.reduced(np.zeros((frames, vocabulary), np.float32), DataType.FLOAT32, targets, NUMPY)
        found.append(vocabulary if item is None else item.vocabulary)
        assert item is None or item.log_probs.size == frames * item.vocabulary
    return found


def test_one_wide_item_does_not_widen_all_that_follow() -> None:
    wide, narrow = (130, V, 120), (500, V, 20)
    spent = 500 * 4 * (128 - LEAST_COLUMNS)
    most = (REQUEST_BYTES - 1) // spent
    assert widths(wide, *[narrow] * 6) == [128] + [128] * most + [LEAST_COLUMNS] * (6 - most)
    assert widths(wide, *[narrow, narrow, wide] * 4) == [128] * 13
    assert widths((600, V, 500), (600, V, 20)) == [V, LEAST_COLUMNS]
    assert widths((150, 128, 70), (150, 300, 20)) == [128, LEAST_COLUMNS]
    whole, half = (150, 128, 70), (150, 128, 20)
    assert widths(whole, *[half] * 14) == [128] * 14 + [LEAST_COLUMNS]


def test_in_one_call_all_have_the_columns_that_they_need() -> None:
    """Whatever the one before had."""
    x = np.broadcast_to(np.arange(V, dtype=np.float32), (17, V))
    columns, rng = Columns(7, 0.0), np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        size = int(rng.integers(LEAST_VOCABULARY, V))
        targets = rng.permutation(np.arange(8, size))[: rng.integers(1, size)].astype(np.int32)
        item = columns.reduced(np.repeat(x[:, :size], 9, 0), DataType.FLOAT32, targets, NUMPY)
        seen.add(item is None)
        if item is not None:
            values = item.log_probs.reshape(-1, item.vocabulary)
            assert values[0, 0] == 7
            assert values[0, item.numbered].tolist() == targets.tolist()
    assert seen == {True, False}


def test_neither_small_vocabularies_nor_those_in_process_are_copied() -> None:
    for reduces, vocabulary in ((True, LEAST_VOCABULARY - 1), (False, V)):
        family, x = CtcFamily(reduces=reduces), emissions(3, 300, vocabulary)
        stack = family.stack(Pairs(x, np.ones((3, 2), int)))
        assert stack is not None
        assert np.shares_memory(stack.log_probs, x)
        assert np.shares_memory(family.prepare((x[0], [1]), borrow=True).log_probs, x)


def test_small_items_of_one_array_are_not_taken_one_by_one() -> None:
    family = CtcFamily(reduces=True)
    assert family.stack(Pairs(emissions(9, 16, V), np.ones((9, 2), int))) is not None
    assert family.stack(Pairs(emissions(9, 17, V), np.ones((9, 2), int))) is None


def test_in_process_nothing_is_reduced(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Columns, "reduced", lambda *arguments: asked.append(arguments))
    x = emissions(2, 20, V)
    list(client.align_ctc(list(x), [[1], [2]]))
    list(client.ctc_posteriors(list(x), [[1], [2]]))
    client.forced_align(x, [[1], [2]])
    transport = getattr(client, "client", client)._transport
    assert len(asked) == (6 if transport.remote else 0)


def test_what_was_too_large_fits(connect: Any, server: FakeServer) -> None:
    server.info = server_info(max_message_bytes=10_000)
    x = emissions(30, V)
    found = list(connect().align_ctc([x, x], [[1, 2], [1, V]], on_error="return"))
    assert [one.status.code for one in found] == [ItemCode.OK, ItemCode.TOO_LARGE]
    paths, _ = connect().forced_align(x[None], [[1, 2]])
    assert sorted({*paths[0].tolist()} - {0}) == [1, 2]
    with pytest.raises(MessageTooLargeError, match="item 0"):
        connect().forced_align(x[None], [[1, V]])


def test_a_large_item_has_no_columns_beyond_its_own() -> None:
    most = (ALONE_BYTES - 1) // (4 * V // 2)
    assert widths((most, V, 299)) == [V // 2]  # 512 are more
    assert widths((most + 1, V, 299)) == [300]
    most = (ALONE_BYTES - 1) // (4 * 150)
    assert widths((150, 300, 140), (most, 300, 100)) == [150, 150]
    assert widths((150, 300, 140), (most + 1, 300, 100)) == [150, 128]


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_large_array_is_copied_whole() -> None:
    x = np.zeros((2, 64, 8000), ">f4")
    pairs = Pairs(x, np.ones((2, 3), int))
    assert peak(lambda: CtcFamily(reduces=True).stack(pairs)) < x.nbytes / 4
    columns = np.arange(LEAST_COLUMNS)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(-1, 8000)
    for given in (x[0], unaligned, torch.zeros(8000, 64).T, torch.zeros(64, 8000).bfloat16()):
        assert peak(lambda given=given: taken(given, columns, DataType.FLOAT32)) < 64 * 8000


class Stored:
    """As an array that is read from a file when it is sliced."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, array.dtype

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    "make",
    [
        lambda vocabulary: np.zeros((99, vocabulary), int),
        lambda vocabulary: np.zeros((0, vocabulary), np.float32),
        lambda vocabulary: [[0.0] * vocabulary] * 99,
        lambda vocabulary: Stored(np.zeros((99, vocabulary), np.float32)),
        lambda vocabulary: torch.zeros(99, vocabulary).to_sparse(),
        lambda vocabulary: torch.zeros(99, vocabulary).to_sparse_csr(),
        lambda vocabulary: torch.zeros(99, vocabulary).to_mkldnn(),
    ],
    ids=["integers", "no frames", "lists", "stored", "sparse", "sparse rows", "mkldnn"],
)
def test_arrays_that_are_none_are_told_as_ever(client: Any, make: Any) -> None:
    good = np.zeros((99, V), np.float32)
    found = client.align_ctc([good, make(V), make(9), good], [[1]] * 4, on_error="return")
    first, one, other, last = (result.status for result in found)
    assert first.ok
    assert last.ok
    assert not one.ok
    assert (one.code, one.message.replace(str(V), "9")) == (other.code, other.message)


def test_a_padded_batch_that_is_no_array_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="must be a NumPy array or a torch tensor, not Stored"):
        client.forced_align(Stored(np.zeros((1, 99, V), np.float32)), [[1]])


def test_labels_are_numbered_in_order_of_their_columns() -> None:
    found = renumbered(np.array([9, STAR, 2, 9, 30], np.int32), 31, 3, 0.0)
    assert found is not None
    columns, numbered = found
    assert columns.tolist() == [3, 2, 9, 30]
    assert numbered.tolist() == [2, STAR, 1, 2, 3]
