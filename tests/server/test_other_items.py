"""Items of attention maps, latents and sums over all paths that nobody should send, and unusual ones that somebody may:
each has its own status through a real socket, whatever the others are. (`test_bad_input` sends those of best paths.)"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from alignd import wire
from alignd.wire import DataType, ItemCode
from alignd.wire.attention import ATTENTION_SPANS, AttentionMode
from alignd.wire.ctc import CTC_STATES
from alignd.wire.latents import LATENT_PATHS
from alignd.wire.mas import MAS_NODES
from support.raw import ask, stored
from support.reference_answers import ANSWERS
from support.server_process import ServerProcess

NAN, INF, STAR = float("nan"), float("inf"), wire.STAR
ULP = 2.0**-23
C, V = 3, 4  # channels, and columns of a vocabulary

FloatArray = npt.NDArray[np.floating]


def grid(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Multiples of 1/8 between 0 and 1, which every data type holds exactly."""
    return np.random.default_rng(seed).integers(0, 9, shape).astype(np.float32) / 8


def with_cell(array: npt.NDArray[np.float32], place: tuple[int, ...], value: float) -> npt.NDArray[np.float32]:
    changed = array.copy()
    changed[place] = value
    return changed


def sizes(arrays: Sequence[Any], axis: int) -> npt.NDArray[np.int64]:
    return np.array([np.shape(array)[axis] for array in arrays], np.int64)


def flat(arrays: Sequence[Any], data_type: DataType) -> npt.NDArray[Any]:
    return stored(np.concatenate([np.ravel(array) for array in arrays]), data_type)


def attention_of(maps: Sequence[FloatArray], data_type: DataType, **more: Any) -> wire.AttentionRequest:
    return wire.AttentionRequest(flat(maps, data_type), data_type, *(sizes(maps, axis) for axis in range(3)), **more)


def latents_of(items: Sequence[tuple[FloatArray, ...]], data_type: DataType) -> wire.LatentsRequest:
    """Of (z, mean, log_sigma)."""
    z, means, log_sigmas = zip(*items)
    arrays = [flat(part, data_type) for part in (z, means, log_sigmas)]
    return wire.LatentsRequest(*arrays, data_type, sizes(means, 0), sizes(z, 0), C)


def mas_of(values: Sequence[FloatArray], data_type: DataType) -> wire.MasRequest:
    return wire.MasRequest(flat(values, data_type), data_type, sizes(values, 0), sizes(values, 1))


def ctc_of(items: Sequence[tuple[FloatArray, list[int]]], data_type: DataType, **more: Any) -> wire.CtcRequest:
    log_probs, targets = zip(*items)
    labels = np.array(list(itertools.chain(*targets)), np.int32)
    return wire.CtcRequest(
        flat(log_probs, data_type), data_type, sizes(log_probs, 0), V, labels, sizes(targets, 0), **more
    )


def gaussians(tokens: int, frames: int, seed: int = 0) -> tuple[FloatArray, ...]:
    return grid(frames, C, seed=seed), grid(tokens, C, seed=seed + 1), grid(tokens, C, seed=seed + 2)


class Family(NamedTuple):
    """How a family's items become a request, where what is found of each lies, and two items that are good.

    `error` is how far a score may be from the reference's, in units of float32's last place for each frame, and half of
    how far a posterior may be. Paths and what attention maps are told apart by are the reference's own.
    """

    rpc: Any
    ragged: Any
    request: Callable[..., Any]
    good: list[Any]
    error: int


ATTENTION = Family(wire.ALIGN_ATTENTION, ATTENTION_SPANS, attention_of, [grid(2, 3, 7), grid(1, 2, 2)], 0)
# By `cpu_latents`, for values of 0 … 1: 17 for the cells; and the score is rounded to float32.
LATENTS = Family(wire.MAXIMUM_PATH_FROM_LATENTS, LATENT_PATHS, latents_of, [gaussians(3, 7), gaussians(2, 2)], 21)
MAS = Family(wire.MAS_POSTERIORS, MAS_NODES, mas_of, [grid(3, 7), grid(2, 2)], 4)  # `mas.cpu_sum`
CTC = Family(wire.CTC_POSTERIORS, CTC_STATES, ctc_of, [(-grid(7, V), [1, 1, 3]), (-grid(2, V), [])], 6)  # `ctc.sums`


def found_in(family: Family, request: Any, reply: Any, item: int) -> list[npt.NDArray[Any]]:
    """The item's part of each array of the reply, and its score."""
    parts = [reply.scores[item : item + 1]]
    for column in family.ragged.outputs:
        ends = np.cumsum(column.sizes(request))
        parts.append(np.split(getattr(reply, column.name), ends[:-1])[item])
    return parts


def assert_is_the_references(family: Family, request: Any, reply: Any) -> None:
    expected = ANSWERS[family.rpc.name](request)
    for item, T in enumerate(request.frames):
        assert reply.statuses[item] is expected.statuses[item] is wire.OK
        pairs = zip(*(found_in(family, request, answer, item) for answer in (reply, expected)), strict=True)
        for place, (found, exact) in enumerate(pairs):
            atol = (2 if place else 1) * family.error * T * ULP
            np.testing.assert_allclose(found, exact, rtol=0, atol=atol)


Words = list[str]
MAP, WARP, WALK = ({"mode": mode} for mode in AttentionMode)
LOG = {"log": True}
Z, MEAN, SIGMA = gaussians(2, 4)
FULL = np.full

BAD: list[tuple[Family, dict[str, Any], Any, ItemCode, str, Words]] = [
    (ATTENTION, MAP, grid(0, 3, 5), ItemCode.EMPTY, "frames", ["0 heads, 3 tokens, 5 frames"]),
    (ATTENTION, WARP, grid(2, 0, 5), ItemCode.EMPTY, "frames", ["2 heads, 0 tokens, 5 frames"]),
    (ATTENTION, WALK, grid(2, 3, 0), ItemCode.EMPTY, "frames", ["2 heads, 3 tokens, 0 frames"]),
    (ATTENTION, LOG, grid(0, 0, 0), ItemCode.EMPTY, "frames", ["0 heads, 0 tokens, 0 frames"]),
    (ATTENTION, MAP, grid(1, 5, 3), ItemCode.TOO_FEW_FRAMES, "frames", ["tokens (5)", "frames (3)", '"dtw"']),
    (ATTENTION, MAP, FULL((2, 3, 5), -INF), ItemCode.NO_FINITE_PATH, "attention", ["-inf", "2 heads"]),
    (ATTENTION, WARP, FULL((2, 3, 5), -INF), ItemCode.NO_FINITE_PATH, "attention", ["-inf", "2 heads"]),
    (ATTENTION, MAP, FULL((1, 2, 3), 3e38), ItemCode.NO_FINITE_PATH, "attention", ["sums overflow"]),
    (ATTENTION, LOG, FULL((1, 2, 3), 0.0), ItemCode.NO_FINITE_PATH, "attention", ["-inf"]),
    (ATTENTION, LOG | WARP, FULL((1, 2, 3), 0.0), ItemCode.NO_FINITE_PATH, "attention", ["-inf"]),
    (ATTENTION, LOG, FULL((1, 2, 3), -0.5), ItemCode.NOT_FINITE, "attention", ["a negative value"]),
    (ATTENTION, LOG | WARP, FULL((1, 2, 3), -0.5), ItemCode.NOT_FINITE, "attention", ["a negative value"]),
    (ATTENTION, WALK, FULL((1, 2, 3), 1.25), ItemCode.MALFORMED, "attention", ["outside 0 … 1", '"stepwise"']),
    (ATTENTION, WALK, FULL((1, 2, 3), -0.25), ItemCode.MALFORMED, "attention", ["outside 0 … 1"]),
    # A cell that no path visits, of a head that is not chosen: it decides on that head's focus rate all the same.
    *(
        (ATTENTION, mode, with_cell(grid(3, 3, 4), (2, 2, 0), bad), ItemCode.NOT_FINITE, "attention", ["NaN or +inf"])
        for mode, bad in itertools.product((MAP, WARP, WALK, LOG), (NAN, INF))
    ),
    (LATENTS, {}, gaussians(2, 0), ItemCode.EMPTY, "frames", ["2 tokens, 0 frames, 3 channels"]),
    (LATENTS, {}, gaussians(0, 4), ItemCode.EMPTY, "frames", ["0 tokens, 4 frames"]),
    (LATENTS, {}, gaussians(0, 0), ItemCode.EMPTY, "frames", ["0 tokens, 0 frames"]),
    (LATENTS, {}, gaussians(5, 3), ItemCode.TOO_FEW_FRAMES, "frames", ["tokens (5)", "frames (3)"]),
    (LATENTS, {}, (with_cell(Z, (1, 2), NAN), MEAN, SIGMA), ItemCode.NOT_FINITE, "latents", ["NaN in a latent"]),
    (LATENTS, {}, (Z, with_cell(MEAN, (1, 0), NAN), SIGMA), ItemCode.NOT_FINITE, "latents", ["a mean"]),
    (LATENTS, {}, (Z, MEAN, with_cell(SIGMA, (0, 0), NAN)), ItemCode.NOT_FINITE, "latents", ["a log_sigma"]),
    (LATENTS, {}, (FULL((4, C), INF), FULL((2, C), INF), SIGMA), ItemCode.NOT_FINITE, "latents", ["infinities"]),
    (LATENTS, {}, (Z, MEAN, FULL((2, C), -INF)), ItemCode.NOT_FINITE, "latents", ["infinities"]),
    (LATENTS, {}, (with_cell(Z, (1, 2), INF), MEAN, SIGMA), ItemCode.NO_FINITE_PATH, "latents", ["-inf"]),
    (LATENTS, {}, (Z, MEAN, FULL((2, C), INF)), ItemCode.NO_FINITE_PATH, "latents", ["-inf"]),
    (LATENTS, {}, (FULL((4, C), 3e38), MEAN, SIGMA), ItemCode.NO_FINITE_PATH, "latents", ["squares that overflow"]),
    (MAS, {}, grid(3, 0), ItemCode.EMPTY, "frames", ["3 tokens, 0 frames"]),
    (MAS, {}, grid(0, 3), ItemCode.EMPTY, "frames", ["0 tokens, 3 frames"]),
    (MAS, {}, grid(5, 3), ItemCode.TOO_FEW_FRAMES, "frames", ["tokens (5)", "frames (3)"]),
    (MAS, {}, FULL((3, 5), -INF), ItemCode.NO_FINITE_PATH, "values", ["-inf", "3 tokens, 5 frames"]),
    # A frame in which every token is impossible, and sums that need more powers of two than float32 counts exactly.
    (MAS, {}, np.where(np.arange(5) == 2, -INF, grid(3, 5)), ItemCode.NO_FINITE_PATH, "values", ["-inf"]),
    (MAS, {}, FULL((3, 5), 3e38), ItemCode.NO_FINITE_PATH, "values", ["sums overflow"]),
    (MAS, {}, FULL((3, 5), -2e6), ItemCode.NO_FINITE_PATH, "values", ["sums overflow"]),
    (CTC, {}, (grid(3, V), [1, 1, 2]), ItemCode.TOO_FEW_FRAMES, "frames", ["frames (3)", "1 repeats", "at least 4"]),
    (CTC, {}, (grid(0, V), [1]), ItemCode.EMPTY, "frames", ["1 targets, 0 frames"]),
    (CTC, {}, (grid(0, V), []), ItemCode.EMPTY, "frames", ["0 targets, 0 frames"]),
    (CTC, {}, (grid(5, V), [1, 0]), ItemCode.TARGET_IS_BLANK, "targets", ["blank (0)"]),
    (CTC, {}, (grid(5, V), [1, V]), ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target 4", "0 … 3"]),
    (CTC, {}, (grid(5, V), [1, -(2**31)]), ItemCode.TARGET_OUT_OF_RANGE, "targets", ["target -2147483648"]),
    (CTC, {}, (grid(5, V), [STAR, STAR]), ItemCode.ADJACENT_STARS, "targets", ["STAR"]),
    (CTC, {}, (FULL((4, V), -INF), [1]), ItemCode.NO_FINITE_PATH, "log_probs", ["-inf", "1 targets, 4 frames"]),
    (CTC, {}, (FULL((4, V), -INF), []), ItemCode.NO_FINITE_PATH, "log_probs", ["-inf", "0 targets, 4 frames"]),
    (CTC, {}, (FULL((4, V), 3e38), [1]), ItemCode.NO_FINITE_PATH, "log_probs", ["sums overflow"]),
    (CTC, {}, (FULL((4, V), -2e6), [1]), ItemCode.NO_FINITE_PATH, "log_probs", ["sums overflow"]),
]


@pytest.mark.parametrize(
    ("family", "more", "item", "code", "field", "words"),
    BAD,
    ids=[f"{case[0].rpc.name}-{case[3].name}-{place}" for place, case in enumerate(BAD)],
)
def test_a_bad_item_fails_alone(
    server: ServerProcess, family: Family, more: dict[str, Any], item: Any, code: ItemCode, field: str, words: Words
) -> None:
    first, last = family.good
    request = family.request([first, item, last], DataType.FLOAT32, **more)
    reply = ask(server.target, family.rpc, request)
    assert reply.statuses[1][:2] == (code, field)
    assert all(word in reply.statuses[1].message for word in words), reply.statuses[1].message
    score, *arrays = found_in(family, request, reply, 1)
    assert np.isnan(score)
    assert not any(array.any() for array in arrays)
    for place, good in ((0, first), (2, last)):
        single = family.request([good], DataType.FLOAT32, **more)
        alone = ask(server.target, family.rpc, single)
        assert_is_the_references(family, single, alone)
        assert reply.statuses[place] is wire.OK
        for found, same in zip(found_in(family, request, reply, place), found_in(family, single, alone, 0)):
            assert found.tolist() == same.tolist()


def mas_visits(cell: tuple[int, ...]) -> bool:
    s, t = cell
    return max(0, 3 - 5 + t) <= s <= min(2, t)


def ctc_visits(cell: tuple[int, ...]) -> bool:
    """Whether labels 1, 1 can be in that column of five frames, by trying every sequence of columns."""
    t, column = cell
    for columns in itertools.product(range(2), repeat=5):
        if columns[t] == column and [kind for kind, _ in itertools.groupby(columns) if kind] == [1, 1]:
            return True
    return False


@pytest.mark.parametrize("data_type", DataType)
@pytest.mark.parametrize(
    ("family", "clean", "wrap", "visits"),
    [(MAS, grid(3, 5), lambda x: x, mas_visits), (CTC, -grid(5, V), lambda x: (x, [1, 1]), ctc_visits)],
    ids=["mas", "ctc"],
)
def test_only_cells_that_a_path_can_visit_matter_to_sums(
    server: ServerProcess, data_type: DataType, family: Family, clean: Any, wrap: Any, visits: Any
) -> None:
    poisoned = [(place, with_cell(clean, place, bad)) for place in np.ndindex(clean.shape) for bad in (NAN, INF)]
    request = family.request([wrap(clean), *(wrap(matrix) for _, matrix in poisoned)], data_type)
    reply = ask(server.target, family.rpc, request)
    single = family.request([wrap(clean)], data_type)
    alone = ask(server.target, family.rpc, single)
    assert_is_the_references(family, single, alone)
    expected = [part.tolist() for part in found_in(family, single, alone, 0)]
    for item, (place, _) in enumerate(poisoned, 1):
        found = found_in(family, request, reply, item)
        if visits(place):
            assert reply.statuses[item][:2] == (ItemCode.NOT_FINITE, family.ragged.inputs[0].name)
            assert np.isnan(found[0])
            assert not found[1].any()
        else:
            assert reply.statuses[item] is wire.OK
            assert [part.tolist() for part in found] == expected


# Maps whose columns do not sum to one, of either sign; heads that are alike; nothing but zeros; many heads of one cell.
MAPS = [8 * grid(3, 4, 9) - 4, -grid(2, 3, 3), np.tile(grid(1, 3, 6), (4, 1, 1)), 0 * grid(2, 2, 5), grid(70, 1, 1)]
HOLED = np.array([[[0.5, 0.5, -INF, 0.0], [1.0, -INF, 0.5, 0.5]]])  # one path is left
UNUSUAL: dict[str, tuple[Family, dict[str, Any], list[Any]]] = {
    "maps searched": (ATTENTION, MAP, [*MAPS, HOLED]),
    "maps warped": (ATTENTION, WARP, [*MAPS, HOLED, 8 * grid(2, 7, 3) - 4]),
    "maps walked": (ATTENTION, WALK, [grid(3, 4, 9), 0 * grid(2, 5, 3), 1 + 0 * grid(2, 3, 6), grid(70, 1, 1)]),
    "logarithms searched": (ATTENTION, LOG, [16 * grid(3, 4, 9) + 1, np.maximum(grid(2, 3, 8), 2.0**-24)]),
    "logarithms warped": (ATTENTION, LOG | WARP, [16 * grid(3, 6, 4) + 1, grid(1, 2, 8) + np.eye(2, 8)]),
    "soft mas": (MAS, {}, [64 * grid(3, 9) - 32, grid(5, 5), -1000 * grid(2, 6), 0 * grid(2, 7), HOLED[0]]),
    "soft ctc": (CTC, {}, [(8 * grid(9, V), [1, 2]), (-grid(4, V), []), (-grid(5, V), [STAR]), (grid(1, V), [3])]),
    "soft ctc, largest": (CTC, {"star_score": None}, [(-grid(5, V), [STAR, 2]), (-1000 * grid(6, V), [3, STAR])]),
}


@pytest.mark.parametrize("data_type", [DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32])
@pytest.mark.parametrize("case", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_answered(
    server: ServerProcess, case: tuple[Family, dict[str, Any], list[Any]], data_type: DataType
) -> None:
    family, more, items = case
    request = family.request(items, data_type, **more)
    assert_is_the_references(family, request, ask(server.target, family.rpc, request))
