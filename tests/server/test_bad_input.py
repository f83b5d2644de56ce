"""What no request should hold, sent through a real socket: refused with a reason, and never silently wrong."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc_status import rpc_status

from alignd import wire
from alignd.v1 import alignment_pb2 as pb
from alignd.wire import DataType, ItemCode
from support import reference_answers, workloads
from support.raw import ask, call, stored
from support.refusals import assert_malformed, refusal
from support.server_process import ServerProcess

MAS, CTC = wire.MAXIMUM_PATH, wire.FORCED_ALIGN
NAN, INF = float("nan"), float("inf")
STAR = wire.STAR

FloatArray = npt.NDArray[np.floating]


def mas_request(items: Sequence[FloatArray], data_type: DataType = DataType.FLOAT32) -> wire.MasRequest:
    values = np.concatenate([item.ravel() for item in items])
    tokens, frames = np.array([item.shape for item in items], np.int64).T
    return wire.MasRequest(stored(values, data_type), data_type, tokens, frames, return_paths=True)


def ctc_request(
    items: Sequence[tuple[FloatArray, Sequence[int]]], data_type: DataType = DataType.FLOAT32, **more: Any
) -> wire.CtcRequest:
    values = np.concatenate([log_probs.ravel() for log_probs, _ in items])
    frames = np.array([len(log_probs) for log_probs, _ in items], np.int64)
    targets = np.array([label for _, labels in items for label in labels], np.int32)
    lengths = np.array([len(labels) for _, labels in items], np.int64)
    return wire.CtcRequest(stored(values, data_type), data_type, frames, items[0][0].shape[1], targets, lengths, **more)


def grid(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Multiples of 1/8, which every data type holds exactly."""
    return np.random.default_rng(seed).integers(-15, 1, (rows, columns)).astype(np.float32) / 8


def with_cell(matrix: npt.NDArray[np.float32], row: int, column: int, value: float) -> npt.NDArray[np.float32]:
    changed = matrix.copy()
    changed[row, column] = value
    return changed


def cells(shape: tuple[int, int]) -> Iterable[tuple[int, int]]:
    return itertools.product(range(shape[0]), range(shape[1]))


# ---- Items: each has its own status, whatever the others are. ----


@pytest.mark.parametrize("data_type", DataType)
@pytest.mark.parametrize("poison", [NAN, INF])
def test_mas_only_cells_that_a_path_can_visit_matter(server: ServerProcess, data_type: DataType, poison: float) -> None:
    S, T = 4, 7
    clean = grid(S, T)
    request = mas_request([clean, *(with_cell(clean, s, t, poison) for s, t in cells(clean.shape))], data_type)
    reply = ask(server.target, MAS, request)
    expected = reference_answers.maximum_path(mas_request([clean], data_type))
    durations, paths = reply.durations.reshape(-1, S), reply.paths.reshape(-1, T)
    assert durations[0].tolist() == expected.durations.tolist()
    for item, (s, t) in enumerate(cells(clean.shape), 1):
        if max(0, S - T + t) <= s <= min(S - 1, t):
            code, field, message = reply.statuses[item]
            assert (code, field) == (ItemCode.NOT_FINITE, "values")
            assert "NaN or +inf" in message
            assert "4 tokens, 7 frames" in message
            assert not durations[item].any()
            assert not paths[item].any()
            assert np.isnan(reply.scores[item])
        else:
            assert reply.statuses[item] is wire.OK
            assert durations[item].tolist() == durations[0].tolist()
            assert paths[item].tolist() == np.repeat(np.arange(S), durations[0]).tolist()
            assert reply.scores[item] == expected.scores[0]


def legal_labels(T: int, V: int, targets: Sequence[int], blank: int) -> set[tuple[int, int]]:
    """Cells (frame, column) of all legal paths, by trying every sequence of columns."""
    visited: set[tuple[int, int]] = set()
    for columns in itertools.product(range(V), repeat=T):
        collapsed = [column for column, _ in itertools.groupby(columns) if column != blank]
        if collapsed == list(targets):
            visited |= set(enumerate(columns))
    return visited


@pytest.mark.parametrize("data_type", DataType)
@pytest.mark.parametrize("targets", [[2, 1], [1, 1], [3]])
def test_ctc_only_cells_that_a_path_can_visit_matter(
    server: ServerProcess, data_type: DataType, targets: list[int]
) -> None:
    T, V = 5, 4
    clean, visited = grid(T, V), legal_labels(T, V, targets, 0)
    poisoned = [with_cell(clean, t, v, poison) for t, v in cells((T, V)) for poison in (NAN, INF)]
    reply = ask(server.target, CTC, ctc_request([(matrix, targets) for matrix in [clean, *poisoned]], data_type))
    expected = reference_answers.forced_align(ctc_request([(clean, targets)], data_type))
    paths = reply.paths.reshape(-1, T)
    for item, (cell, _) in enumerate(itertools.product(cells((T, V)), (NAN, INF)), 1):
        if cell in visited:
            code, field, message = reply.statuses[item]
            assert (code, field) == (ItemCode.NOT_FINITE, "log_probs")
            assert "NaN or +inf" in message
            assert f"{len(targets)} targets, 5 frames" in message
            assert not paths[item].any()
            assert np.isnan(reply.scores[item])
        else:
            assert reply.statuses[item] is wire.OK
            assert paths[item].tolist() == expected.paths.tolist()
            assert reply.scores[item] == expected.scores[0]


@pytest.mark.parametrize(
    ("item", "code", "field", "words"),
    [
        (np.full((3, 5), -np.inf), ItemCode.NO_FINITE_PATH, "values", ["-inf", "3 tokens", "5 frames"]),
        (np.zeros((5, 3)), ItemCode.TOO_FEW_FRAMES, "frames", ["tokens (5)", "frames (3)"]),
        (np.zeros((3, 0)), ItemCode.EMPTY, "frames", ["3 tokens", "0 frames"]),
        (np.zeros((0, 3)), ItemCode.EMPTY, "frames", ["0 tokens", "3 frames"]),
        (np.zeros((0, 0)), ItemCode.EMPTY, "frames", ["0 tokens", "0 frames"]),
    ],
    ids=["all -inf", "S > T", "zero frames", "zero tokens", "nothing"],
)
def test_mas_items_without_a_path(
    server: ServerProcess, item: FloatArray, code: ItemCode, field: str, words: list[str]
) -> None:
    good = [grid(4, 9, 1), grid(2, 3, 2)]
    reply = ask(server.target, MAS, mas_request([good[0], item, good[1]]))
    assert reply.statuses[1][:2] == (code, field)
    assert all(word in reply.statuses[1].message for word in words), reply.statuses[1].message
    assert np.isnan(reply.scores[1])
    S, T = item.shape
    assert not reply.durations[4 : 4 + S].any()
    assert not reply.paths[9 : 9 + T].any()
    durations, paths = np.split(reply.durations, [4, 4 + S]), np.split(reply.paths, [9, 9 + T])
    for place, matrix in zip((0, 2), good):
        alone = ask(server.target, MAS, mas_request([matrix]))
        expected = reference_answers.maximum_path(mas_request([matrix]))
        assert reply.statuses[place] is wire.OK
        assert durations[place].tolist() == alone.durations.tolist() == expected.durations.tolist()
        assert paths[place].tolist() == alone.paths.tolist()
        assert reply.scores[place] == alone.scores[0] == expected.scores[0]


@pytest.mark.parametrize(
    ("frames", "targets", "code", "field", "words"),
    [
        (3, [1, 1, 2], ItemCode.TOO_FEW_FRAMES, "frames", ["frames (3)", "3 targets", "1 repeats", "at least 4"]),
        (2, [1, 2, 3], ItemCode.TOO_FEW_FRAMES, "frames", ["frames (2)", "3 targets", "0 repeats"]),
        (0, [1], ItemCode.EMPTY, "frames", ["1 targets", "0 frames"]),
        (5, [], ItemCode.EMPTY, "frames", ["0 targets", "5 frames"]),
        (5, [1, 0], ItemCode.TARGET_IS_BLANK, "targets", ["blank (0)"]),
        (5, [1, 4], ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target 4", "0 … 3"]),
        (5, [1, 2**31 - 1], ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target 2147483647"]),
        (5, [1, -2], ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target -2"]),
        (5, [-(2**31)], ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target -2147483648"]),
        (5, [1, STAR, STAR], ItemCode.ADJACENT_STARS, "targets", ["STAR"]),
    ],
)
def test_ctc_items_without_a_path(
    server: ServerProcess, frames: int, targets: list[int], code: ItemCode, field: str, words: list[str]
) -> None:
    good = [(grid(7, 4, 1), [1, 1, 3]), (grid(4, 4, 2), [2, STAR])]
    reply = ask(server.target, CTC, ctc_request([good[0], (grid(frames, 4), targets), good[1]]))
    assert reply.statuses[1][:2] == (code, field)
    assert all(word in reply.statuses[1].message for word in words), reply.statuses[1].message
    assert np.isnan(reply.scores[1])
    assert not reply.paths[7 : 7 + frames].any()
    assert not reply.frame_scores[7 : 7 + frames].any()
    assert not reply.durations[3 : 3 + len(targets)].any()
    paths = np.split(reply.paths, [7, 7 + frames])
    frame_scores = np.split(reply.frame_scores, [7, 7 + frames])
    durations = np.split(reply.durations, [3, 3 + len(targets)])
    for place, item in zip((0, 2), good):
        alone = ask(server.target, CTC, ctc_request([item]))
        expected = reference_answers.forced_align(ctc_request([item]))
        assert reply.statuses[place] is wire.OK
        assert paths[place].tolist() == alone.paths.tolist() == expected.paths.tolist()
        assert durations[place].tolist() == alone.durations.tolist() == expected.durations.tolist()
        assert frame_scores[place].tolist() == alone.frame_scores.tolist() == expected.frame_scores.tolist()
        assert reply.scores[place] == alone.scores[0] == expected.scores[0]


@pytest.mark.parametrize(
    ("log_probs", "more"),
    [(np.full((4, 3), -np.inf), {}), (grid(1, 3), {"star_score": -INF})],
    ids=["all -inf", "a star of -inf"],
)
def test_ctc_without_a_finite_path(server: ServerProcess, log_probs: FloatArray, more: dict[str, Any]) -> None:
    (status,) = ask(server.target, CTC, ctc_request([(log_probs, [STAR if more else 1])], **more)).statuses
    assert status[:2] == (ItemCode.NO_FINITE_PATH, "log_probs")
    assert f"1 targets, {len(log_probs)} frames" in status.message


def test_the_rule_for_stars_of_the_largest_log_prob(server: ServerProcess) -> None:
    """A NaN in any label's column can be a star's emission; one in the blank's column cannot."""
    clean = grid(1, 4)
    items = [(clean, [STAR]), (with_cell(clean, 0, 3, NAN), [STAR]), (with_cell(clean, 0, 0, NAN), [STAR])]
    reply = ask(server.target, CTC, ctc_request(items, star_score=None))
    assert [status.code for status in reply.statuses] == [ItemCode.OK, ItemCode.NOT_FINITE, ItemCode.OK]
    assert reply.scores[0] == reply.scores[2] == clean[0, 1:].max()


# ---- Messages: contradictions refuse the whole request and name the field. ----


def mas_message(tokens: Sequence[int], frames: Sequence[int], nbytes: int, data_type: int = 3) -> bytes:
    message = pb.MaximumPathRequest(tokens=tokens, frames=frames, values=b"\0" * nbytes)
    message.data_type = data_type  # type: ignore[assignment]  # any number
    return message.SerializeToString()


def ctc_message(**fields: Any) -> bytes:
    """An honest request of one item (T = 3, V = 2, L = 1), but for `fields`."""
    honest: dict[str, Any] = {"frames": [3], "target_lengths": [1], "vocabulary_size": 2, "data_type": 3}
    honest |= {"log_probs": b"\0" * 24, "targets": b"\1\0\0\0"}
    return pb.ForcedAlignRequest(**(honest | fields)).SerializeToString()


BIG = 1 << 31
MALFORMED: list[tuple[Any, bytes, str, list[str]]] = [
    (MAS, b"", "tokens", ["no items"]),
    (MAS, b"\xff" * 50, "", ["not a MaximumPathRequest"]),
    (MAS, mas_message([2], [3], 24)[:-1], "", ["not a MaximumPathRequest"]),
    (MAS, mas_message([], [], 0), "tokens", ["no items"]),
    (MAS, mas_message([2, 2], [3], 24), "frames", ["1 lengths for 2 items"]),
    (MAS, mas_message([2], [3, 3], 24), "frames", ["2 lengths for 1 items"]),
    (MAS, mas_message([2, -2], [3, 3], 24), "tokens", ["item 1", "-2"]),
    (MAS, mas_message([2], [-(2**63)], 24), "frames", ["item 0", str(-(2**63))]),
    (MAS, mas_message([-2], [-3], 24), "tokens", ["-2"]),
    (MAS, mas_message([2], [3], 20), "values", ["20 bytes", "6 × 4 = 24"]),
    (MAS, mas_message([2], [3], 23), "values", ["23 bytes", "24"]),
    (MAS, mas_message([2], [3], 25), "values", ["25 bytes", "24"]),
    (MAS, mas_message([2], [3], 24, data_type=4), "values", ["24 bytes", "6 × 8 = 48"]),
    (MAS, mas_message([2], [3], 24, data_type=0), "data_type", ["0 names no type", "FLOAT32"]),
    (MAS, mas_message([2], [3], 24, data_type=99), "data_type", ["99 names no type"]),
    (MAS, mas_message([BIG], [1], 24), "values", ["24 bytes", str(BIG)]),
    (MAS, mas_message([BIG], [BIG], 24), "values", ["24 bytes", str(BIG * BIG)]),
    (MAS, mas_message([BIG], [0], 0), "tokens", [f"{BIG} tokens and 0 frames"]),
    (MAS, mas_message([0], [BIG], 0), "frames", [f"0 tokens and {BIG} frames"]),
    (MAS, mas_message([1, 2**62, 2**62], [1, 0, 0], 4), "tokens", [f"item 1 has {2**62} tokens"]),
    (MAS, mas_message([2**62], [2**62], 24), "tokens", ["overflow"]),
    (MAS, mas_message([2**32] * 5, [2**32] * 5, 24), "tokens", ["overflow"]),
    (CTC, b"", "frames", ["no items"]),
    (CTC, b"\xff" * 50, "", ["not a ForcedAlignRequest"]),
    (CTC, ctc_message(frames=[3, 3]), "target_lengths", ["1 lengths for 2 items"]),
    (CTC, ctc_message(frames=[-3]), "frames", ["-3"]),
    (CTC, ctc_message(target_lengths=[-1]), "target_lengths", ["-1"]),
    (CTC, ctc_message(vocabulary_size=0), "vocabulary_size", ["0"]),
    (CTC, ctc_message(vocabulary_size=-2), "vocabulary_size", ["-2"]),
    (CTC, ctc_message(vocabulary_size=3), "log_probs", ["24 bytes", "9 × 4 = 36"]),
    (CTC, ctc_message(blank=2), "blank", ["2", "vocabulary of 2"]),
    (CTC, ctc_message(blank=-1), "blank", ["-1"]),
    (CTC, ctc_message(log_probs=b"\0" * 23), "log_probs", ["23 bytes", "24"]),
    (CTC, ctc_message(log_probs=b"\0" * 25), "log_probs", ["25 bytes", "24"]),
    (CTC, ctc_message(targets=b"\1\0\0"), "targets", ["3 bytes", "1 × 4 = 4"]),
    (CTC, ctc_message(targets=b"\1\0\0\0\0"), "targets", ["5 bytes", "4"]),
    (CTC, ctc_message(data_type=0), "data_type", ["0 names no type"]),
    (CTC, ctc_message(data_type=77), "data_type", ["77 names no type"]),
    (CTC, ctc_message(frames=[BIG]), "log_probs", ["24 bytes", str(2 * BIG)]),
    (CTC, ctc_message(target_lengths=[BIG]), "targets", ["4 bytes", str(BIG)]),
    (CTC, ctc_message(vocabulary_size=BIG), "log_probs", ["24 bytes", str(3 * BIG)]),
    (CTC, ctc_message(frames=[2**62], vocabulary_size=2**62), "frames", ["overflow"]),
    (CTC, ctc_message(frames=[3, 2**63 - 1], target_lengths=[1, 2**63 - 1]), "frames", ["overflow"]),
    (CTC, ctc_message(frames=[3, 0], target_lengths=[2**63 - 1, 2**63 - 1]), "target_lengths", ["overflow"]),
    (CTC, ctc_message(star_score=NAN), "star_score", ["nan"]),
    (CTC, ctc_message(star_score=INF), "star_score", ["inf"]),
]


def assert_answers(server: ServerProcess) -> None:
    small = workloads.small_mas(np.random.default_rng(3))
    durations = ask(server.target, MAS, small).durations
    assert durations.tolist() == reference_answers.maximum_path(small).durations.tolist()


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case[0].name}-{case[2]}-{case[3][0]}")
def test_malformed_requests(server: ServerProcess, case: tuple[Any, bytes, str, list[str]]) -> None:
    rpc, message, field, words = case
    server.forget_peak()
    peak = server.peak_bytes()
    assert_malformed(refusal(server.target, rpc, message), field, words)
    assert_malformed(refusal(server.target, rpc, message, promise=str(len(message))), field, words)
    assert server.peak_bytes() - peak < 256 << 20  # a lying length costs no memory
    assert_answers(server)


def test_a_request_of_more_items_than_the_queue_holds(server: ServerProcess) -> None:
    """It could never be queued, now or later: not a case for trying again."""
    limit = ask(server.target, wire.GET_SERVER_INFO, wire.ServerInfoRequest()).limits.max_queue_items
    error = refusal(server.target, MAS, mas_message([1] * (limit + 1), [1] * (limit + 1), 4 * (limit + 1)))
    assert_malformed(error, "", [str(limit + 1), str(limit)])


# ---- What the metadata promises of the message's size. ----

SMALL = wire.MAXIMUM_PATH.encode_request(workloads.small_mas(np.random.default_rng(0)))


@pytest.mark.parametrize(
    "promise", ["", "-1", "1e3", "12.0", "0x10", " 7", "many", "9" * 30, "9" * 5000], ids=lambda promise: promise[:9]
)
def test_a_promise_that_is_no_number(server: ServerProcess, promise: str) -> None:
    assert_malformed(refusal(server.target, MAS, SMALL, promise), "alignd-bytes", ["is no number of bytes"])


@pytest.mark.parametrize("promise", [0, 1, len(SMALL) - 1])
def test_a_message_larger_than_promised(server: ServerProcess, promise: int) -> None:
    words = [f"{promise} bytes promised", f"{len(SMALL)} sent"]
    assert_malformed(refusal(server.target, MAS, SMALL, str(promise)), "alignd-bytes", words)


def test_a_message_smaller_than_promised_is_answered(server: ServerProcess) -> None:
    assert MAS.decode_reply(call(server.target, MAS, SMALL, promise="60000000")).statuses[0].ok
    assert server.metric("alignd_queue_bytes") == 0


@pytest.mark.parametrize("promise", [(64 << 20) + 1, 10**19])
def test_a_promise_over_the_limit(server: ServerProcess, promise: int) -> None:
    error = refusal(server.target, MAS, SMALL, str(promise))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(error) is None  # nothing says to try again: it would never pass
    for word in (str(promise), str(64 << 20), "--max-message-bytes"):
        assert word in error.details()


@pytest.mark.parametrize("promise", [None, "10"])
def test_a_message_over_the_limit(server: ServerProcess, promise: str | None) -> None:
    error = refusal(server.target, MAS, b"\0" * ((64 << 20) + 1), promise)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(error) is None
    assert_answers(server)


def test_a_call_without_a_message(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(MAS.path)(iter([]), timeout=30)
    assert_malformed(caught.value, "", ["without a message"])


@pytest.mark.parametrize("path", ["/alignd.v1.AlignmentService/Nope", "/alignd.v2.AlignmentService/MaximumPath"])
def test_an_unknown_method(server: ServerProcess, path: str) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(SMALL, timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
