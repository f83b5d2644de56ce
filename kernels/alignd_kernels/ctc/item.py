# mypy: allow-untyped-defs
"""One item of CTC from its targets to its result, with all back-pointers kept or segment by segment."""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.emissions import star_value
from alignd_kernels.ctc.lattice import Blocks, States, backward, forward
from alignd_kernels.ctc.not_finite import visited_not_finite
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.numba_helpers import widen
from alignd_kernels.status import Status
from alignd_kernels.vectors import PAIRS, out_of_line

OK: Final = int(Status.OK)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)


@part
def places(T, L, segment, numbers, scores):
    """The arrays of an item within its scratch: states, blocks, where each segment's scores are kept, room for the
    blocks of one segment, and for counts of columns."""
    out_of_line()
    size = (L // PAIRS + 1) * PAIRS
    count = (T + FRAMES - 1) // FRAMES
    states = States(numbers[: size + 1], numbers[size + 1 :][: size + 1], scores[:size], scores[size:][:size])
    rest = numbers[2 * size + 2 :]
    blocks = Blocks(0, rest[:count], rest[count:][:count], rest[2 * count :][:count])
    rest = rest[3 * count :]
    kept = (count + segment - 1) // segment if segment > 0 else 0
    return states, blocks, rest[:kept], rest[kept : kept + 3 * segment], rest[kept + 3 * segment :]


@part(inline=True)
def place_segments(blocks, segment, kept_at):
    """Fill `kept_at`: the columns of tiles whose scores are kept at the starts of the segments before each."""
    total = 0
    for s in range(len(kept_at)):
        kept_at[s] = total
        total += blocks.high[s * segment] - blocks.low[s * segment]


@part(inline=True)
def forward_segments(values, item, states, blocks, segment, kept_at, part, room, steps, saved, carry):
    """`forward` through the blocks and columns of tiles of `part`, which stop short of what there is not; with segments
    the scores at their starts are put away, and no back-pointers."""
    start, stop, column_from, column_to = part
    stop, column_to = min(stop, len(blocks.low)), min(column_to, item.L // PAIRS + 1)
    bad = False
    while start < stop:
        end = stop
        if segment > 0:
            s = start // segment
            end = min(stop, (s + 1) * segment)
            if start == s * segment:
                _keep_scores(states, blocks, segment, kept_at, s, column_from, column_to, saved)
        kept = steps if segment == 0 else steps[:0]
        bad |= forward(values, item, states, blocks, start, end, column_from, column_to, room, kept, carry)
        start = end
    return bad


@part(inline=True)
def _keep_scores(states, blocks, segment, kept_at, s, column_from, column_to, saved):
    """Put scores at the start of segment s away, of those columns that it visits at first."""
    low, high = blocks.low[s * segment], blocks.high[s * segment]
    for k in range(max(low, column_from), min(high, column_to)):
        at = (kept_at[s] + k - low) * 2 * PAIRS
        for j in range(PAIRS):
            saved[at + j] = states.blanks[k * PAIRS + j]
            saved[at + PAIRS + j] = states.labels[k * PAIRS + j]


@part(inline=True)
def _take_scores(states, blocks, segment, kept_at, s, column_from, column_to, saved):
    """The opposite, for columns that may go beyond those that were kept: these are out of reach."""
    low, high = blocks.low[s * segment], blocks.high[s * segment]
    for k in range(column_from, column_to):
        at = (kept_at[s] + k - low) * 2 * PAIRS
        for j in range(PAIRS):
            states.blanks[k * PAIRS + j] = saved[at + j] if low <= k < high else -np.inf
            states.labels[k * PAIRS + j] = saved[at + PAIRS + j] if low <= k < high else -np.inf


@part
def _cone(blocks, first, stop, last_frame, i, room):
    """Of the tiles of blocks first … stop − 1, those from which a path can come to pair i at `last_frame`. It takes one
    pair a frame at most."""
    out_of_line()
    size = stop - first
    cone = Blocks(first, room[:size], room[size:][:size], room[2 * size :][:size])
    tiles = 0
    for b in range(first, stop):
        # One more, which a block's first frame takes its scores from.
        lowest = i - (last_frame - b * FRAMES) - 1
        low = max(blocks.low[b], max(lowest, 0) // PAIRS)
        high = min(blocks.high[b], i // PAIRS + 1)
        cone.low[b - first], cone.high[b - first], cone.tiles[b - first] = low, high, tiles
        tiles += max(high - low, 0)
    return cone


@part(inline=True)
def _back_through_segments(
    values, item, states, blocks, segment, kept_at, cone_room, i, on_label, room, steps, saved, path, durations
):  # fmt: skip
    none = room.x[:0]
    for s in range(len(kept_at) - 1, -1, -1):
        first, stop = s * segment, min((s + 1) * segment, len(blocks.low))
        last = min(stop * FRAMES, item.T) - 1
        cone = _cone(blocks, first, stop, last, i, cone_room)
        columns = i // PAIRS + 1
        _take_scores(states, blocks, segment, kept_at, s, min(cone.low[0], columns), columns, saved)
        forward(values, item, states, cone, first, stop, np.int64(0), columns, room, steps, none)
        i, on_label = backward(cone, states.columns, last + 1, i, on_label, steps, path, durations)


@part(inline=True)
def _score(values, item, targets, path, frame_scores):
    """Log-prob of each frame; the path's own sum in frame order, in float64."""
    total = 0.0
    last_label = np.int64(len(targets) - 1)
    for t in range(len(path)):
        at = t * item.pitch
        state = np.int64(path[t])
        # Read in any case: which states are labels cannot be foreseen.
        label = np.int64(targets[np.uint64(min(state >> 1, last_label))])
        y = label if state & 1 else item.blank
        if y == STAR:
            x = star_value(values[at : at + item.V], item.blank, item.star_score)
        else:
            x = np.float64(widen(values[np.uint64(at + y)]))
        frame_scores[t] = x
        total += x
    return total


@part
def failed(path, durations, frame_scores):
    """The result of an item that has no path; its score."""
    out_of_line()
    path[:] = 0
    durations[:] = 0
    frame_scores[:] = 0
    return np.nan


@part(inline=True)
def finish(
    values, item, targets, states, blocks, segment, kept_at, cone_room, counts, suspect, room, steps, saved,
    path, durations, frame_scores,
):  # fmt: skip
    """From the scores of the last frame to the result. Returns the item's status and score."""
    final_label, final_blank = states.labels[item.L - 1], states.blanks[item.L]
    if suspect and visited_not_finite(values, item, states.columns, states.reached, counts):
        return NOT_FINITE, np.nan
    on_label = final_label >= final_blank
    if not np.isfinite(final_label if on_label else final_blank):
        return NO_FINITE_PATH, np.nan
    i = item.L - 1 if on_label else item.L
    durations[:] = 0
    if segment == 0:
        backward(blocks, states.columns, item.T, i, np.int64(on_label), steps, path, durations)
    else:
        _back_through_segments(
            values, item, states, blocks, segment, kept_at, cone_room, i, np.int64(on_label), room, steps, saved,
            path, durations,
        )  # fmt: skip
    return OK, _score(values, item, targets, path, frame_scores)
