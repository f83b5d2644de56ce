# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What all kernels of CTC know of an item, in Triton's language: where its strips and chunks lie.

The 2L + 1 states are taken as L + 1 pairs, (blank i, label i), the last one without a label. Strips of 32 pairs are
laid from the right, so that the lattice ends in the last two threads of the last one; the first one may begin left of
pair 0. Chunks of 32 frames are laid from the right too: after the last one, registers hold the scores of frame T − 1.
The first one may begin before frame 0.

Label i can be visited from frame i + R[i] on, where R[i] counts the repeats (a label equal to the one before it, which
costs a blank's frame) up to i, and then for `slack` = T − L − R[L − 1] more frames; blank i from frame i + R[i − 1] on,
for one frame less, or as long if it parts a repeat.

`table` has a row of int64 [items + 1] for each of `ROWS`; where a row tells where an item's part of an array begins,
its next entry tells where that part ends.
"""

from typing import Final

import triton
import triton.language as tl

ROWS: Final = (
    "log_probs",
    "columns",
    "pitch",
    "targets",
    "blank",
    "labels",
    "bits",
    "borders",
    "strips",
    "paths",
)
"""Index of cell (0, 0), columns, elements from a frame's row to the next; index of the first target, the blank's
column; begin of the item's part of labels and durations; of back-pointers, in words of one kind; of the borders' words;
of what there is for each strip; of paths, and of what there is for each frame."""

LOG_PROBS, COLUMNS, PITCH, TARGETS, BLANK, LABELS, BITS, BORDERS, STRIPS, PATHS = (
    tl.constexpr(row) for row in range(len(ROWS))
)

STAR = tl.constexpr(-1)
NO_LABEL = tl.constexpr(-2)

MAX_PITCH = tl.constexpr(2**28 - 1)
"""In bytes, a strip multiplies it by a row's number as two int32, which is one instruction."""


@triton.jit
def strips_of(L):
    return (L + 32) // 32


@triton.jit
def left_of_strip(L, strip):
    """Its first pair."""
    return L + 1 - (strips_of(L) - strip) * 32


@triton.jit
def first_frame(T, chunk):
    return T - (tl.cdiv(T, 32) - chunk) * 32


@triton.jit
def chunk_of(T, t):
    """The chunk of a frame t ≥ 0."""
    return (t - T + tl.cdiv(T, 32) * 32) // 32


@triton.jit
def chunks_of_strip(T, L):
    """Chunks that a strip can be in: paths are in its 32 pairs, the first one i, in the frames i … T − L + i + 31 at
    most, whatever repeats there are, and n frames meet ⌊(n + 30)/32⌋ + 1 chunks at most."""
    return (T - L + 62) // 32 + 1


@triton.jit
def frames_of_border(T, L):
    """Frames in which a label can be visited, at most."""
    return T - L + 1


@triton.jit
def strip_of(L, pair):
    """That of a pair ≥ 0."""
    return (pair - left_of_strip(L, 0)) // 32


@triton.jit
def first_strip_of_window(L, state, count):
    """Of the `count` strips whose last one holds `state`, from the left; see `gpu_window`."""
    return tl.maximum(strip_of(L, state // 2) + 1 - count, 0)


@triton.jit
def place_in_window(L, pair, chunk, first_strip, first_chunk, chunks):
    """`place_of`, in the back-pointers of a window of strips and chunks."""
    position = pair - left_of_strip(L, first_strip)
    row = chunk - first_chunk
    known = (pair >= 0) & (position >= 0) & (row >= 0) & (row < chunks)
    return (position // 32).to(tl.int64) * chunks + row, position % 32, known


@triton.jit
def place_of(T, L, pair, chunk):
    """Where in the item's part of the back-pointers a pair and a chunk are: the line of 32 pairs, the entry in it, and
    whether there is one."""
    chunks = chunks_of_strip(T, L)
    position = pair - left_of_strip(L, 0)
    strip = position // 32
    row = chunk - chunk_of(T, tl.maximum(left_of_strip(L, strip), 0))
    known = (pair >= 0) & (row >= 0) & (row < chunks)
    return strip.to(tl.int64) * chunks + row, position % 32, known
