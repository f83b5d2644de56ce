# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""How the strips of one lattice work side by side, in Triton's language.

A lattice is cut into strips of states, one program of one warp each, which all run at a time: a strip goes through its
frames in chunks of 32 and hands the scores of its last state, its border, to the strip on its right.

A border's score and the sign that it is there are one 64-bit word, so that neither needs a fence: the high half is a
tag (the launch's epoch, and with it how far the state's path has come in this chunk), the low half the score's bits.
float64 takes two words, each with the tag. Words are written by relaxed exchanges and read by volatile loads, which PTX
counts as relaxed too: a word is read whole, old or new. Memory is used again by later launches, each with a higher
epoch, so nothing is ever cleared.

No strip can wait for ever. Which strip a program computes is decided by the ticket that it draws when it starts, and
the strips of an item are numbered from left to right: the left neighbour of a strip has drawn a lower ticket, so it has
started, and keeps its multiprocessor until it ends. The first strip waits for nobody; each other one waits for exactly
the words that its left neighbour writes whatever happens (the same predicate, `within`, decides both). By induction all
end. The wait is bounded nevertheless: should it run out (a defect, memory overwritten), the item's status is INTERNAL,
and the strip goes on to write its own words, so that the others need not run out too.
"""

import triton
import triton.language as tl

TAG_BITS = tl.constexpr(7)
"""Of a tag's 32 bits, for the distance from where the path stood before the chunk: ≤ 64 states."""

NOT_FINITE_SEEN = tl.constexpr(1)
NOT_HANDED_OVER = tl.constexpr(2)
"""What can go wrong in a strip."""

BROKEN = tl.constexpr(1 << 28)
"""Added to an item's arrivals, which are fewer, when its path does not begin where paths do."""

MAX_DISTANCE = tl.constexpr(2**7 - 1)

MAX_EPOCH = 2**24 - 1
"""The highest epoch that leaves a tag's sign alone."""


@triton.jit
def draw_ticket(counter, first):
    """How many programs of this launch have started before this one. `first`: the counter when the launch began."""
    return tl.atomic_add(counter, 1, sem="relaxed") - first


@triton.jit
def arrive(counter):
    """How many have arrived before this program, which sees all that they wrote before. One warp's threads together."""
    tl.debug_barrier()  # what other threads have written goes before the one that counts
    arrived = tl.atomic_add(counter, 1, sem="acq_rel")
    tl.debug_barrier()
    return arrived


@triton.jit
def trouble_of(trouble, strips):
    """What went wrong in any strip."""
    lane = tl.arange(0, 32)
    seen = tl.zeros([32], tl.int32)
    for start in range(0, strips, 32):
        seen |= tl.load(trouble + start + lane, mask=lane < strips - start, other=0)
    not_finite = tl.max(seen & NOT_FINITE_SEEN, 0)
    return not_finite | tl.max(seen & NOT_HANDED_OVER, 0)


@triton.jit
def _halves(parts, n: tl.constexpr):
    halves = ()
    for i in tl.static_range(n):
        low, high = tl.split(parts[i])
        halves = halves + (low, high)
    return halves


@triton.jit
def columns(tile, N: tl.constexpr = 32):
    """A [32, N] tile as the tuple of its N columns: 8, 16 or 32.

    The tile is loaded row by row, thread l holding column l: whole lines of memory, however the rows are aligned. A
    thread must get a row instead: all splits come after one change of layout, which is a trip through shared memory."""
    if N == 32:
        parts = (tl.permute(tl.reshape(tile, [32, 2, 2, 2, 2, 2]), (0, 5, 4, 3, 2, 1)),)
    elif N == 16:
        parts = (tl.permute(tl.reshape(tile, [32, 2, 2, 2, 2]), (0, 4, 3, 2, 1)),)
    else:
        parts = (tl.permute(tl.reshape(tile, [32, 2, 2, 2]), (0, 3, 2, 1)),)
    parts = _halves(parts, 1)
    parts = _halves(parts, 2)
    parts = _halves(parts, 4)
    if N > 8:
        parts = _halves(parts, 8)
    if N > 16:
        parts = _halves(parts, 16)
    return parts


@triton.jit
def _pairs(parts, n: tl.constexpr):
    pairs = ()
    for i in tl.static_range(n):
        pairs = pairs + (tl.join(parts[2 * i], parts[2 * i + 1]),)
    return pairs


@triton.jit
def tile_of(columns, N: tl.constexpr):
    """The reverse of `columns`, for a tile that is stored: 8 or 16 columns."""
    parts = columns
    if N == 16:
        parts = _pairs(parts, 8)
    parts = _pairs(parts, 4)
    parts = _pairs(parts, 2)
    parts = _pairs(parts, 1)
    if N == 16:
        tile = tl.reshape(tl.permute(parts[0], (0, 4, 3, 2, 1)), [32, 16])
    else:
        tile = tl.reshape(tl.permute(parts[0], (0, 3, 2, 1)), [32, 8])
    return tile


@triton.jit
def _tagged(epoch, distance, half):
    tag = (epoch << TAG_BITS) | distance
    return (tag.to(tl.int64) << 32) | (half.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def hand_over(words, plane, t, mine, epoch, scores, distances):
    """Write the border's words of frames t, where `mine`.

    Args:
        words: of the border, by frame; those of the scores' high halves, if they are float64, lie `plane` further.
        scores, distances: vectors of 32.
    """
    if scores.dtype == tl.float64:
        bits = scores.to(tl.int64, bitcast=True)
        tl.atomic_xchg(words + plane + t, _tagged(epoch, distances, bits >> 32), mask=mine, sem="relaxed")
    else:
        bits = scores.to(tl.int32, bitcast=True).to(tl.int64)
    tl.atomic_xchg(words + t, _tagged(epoch, distances, bits), mask=mine, sem="relaxed")


@triton.jit
def _missing(word, needed, epoch):
    return tl.max(tl.where(needed & ((word >> (32 + TAG_BITS)) != epoch), 1, 0), 0)


@triton.jit
def look(words, plane, t, needed, ACC: tl.constexpr):
    """The border's words of frames t, where `needed`, as they are now; both are the same if the scores are one word."""
    low = tl.load(words + t, mask=needed, other=0, volatile=True)
    high = low
    if tl.float64 == ACC:
        high = tl.load(words + plane + t, mask=needed, other=0, volatile=True)
    return low, high


@triton.jit
def look_again(low, high, words, plane, t, needed, epoch, patience, ACC: tl.constexpr):
    """Look until all words of frames t, where `needed`, are there: the last look found `low` and `high`.

    Args:
        patience: how often to look.

    Returns:
        scores (−∞ where not needed), distances (0), and whether they did not come.
    """
    missing = tl.maximum(_missing(low, needed, epoch), _missing(high, needed, epoch))
    looks = 1
    while (missing != 0) & (looks < patience):
        low, high = look(words, plane, t, needed, ACC)
        missing = tl.maximum(_missing(low, needed, epoch), _missing(high, needed, epoch))
        looks += 1
    if tl.float64 == ACC:
        scores = ((high << 32) | (low & 0xFFFFFFFF)).to(tl.float64, bitcast=True)
    else:
        scores = low.to(tl.int32).to(tl.float32, bitcast=True)
    distances = (low >> 32).to(tl.int32) & MAX_DISTANCE
    return tl.where(needed, scores, float("-inf")), tl.where(needed, distances, 0), missing


@triton.jit
def take_over(words, plane, t, needed, epoch, patience, ACC: tl.constexpr):
    """Read the border's words of frames t, where `needed`, as soon as they are there. See `look_again`."""
    low, high = look(words, plane, t, needed, ACC)
    return look_again(low, high, words, plane, t, needed, epoch, patience, ACC)
