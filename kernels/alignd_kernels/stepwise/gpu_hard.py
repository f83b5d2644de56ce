# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Hard choices of stepwise monotonic attention on a GPU: one program of one warp for each item.

In 32 frames a path passes at most 32 tokens: a tile of so many, from the token on that it is on, holds all energies
that can decide. It is one trip to memory; each thread makes of its token's a word of choices, which the path then
follows by shuffles.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import NOT_FINITE, OK, accumulator_in_kernel, kernel, widen
from alignd_kernels.gpu_strips import columns
from alignd_kernels.stepwise.gpu_item import lengths_of, places


def constants(dtype: DType, frames_first: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "FRAMES_FIRST": frames_first}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for energies of this type."""
    return [constants(dtype, frames_first) for frames_first in (False, True)]


@triton.jit
def _choices(energies, pitch, base, t0, S, T, ACC: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """For each of tokens base … base + 31 two words, whose bit j says of frame t0 + j whether it stays there, and
    whether NaN decides it. It stays in frame 0, on the last token and beyond lengths."""
    token = base + tl.arange(0, 32)[:, None]
    t = t0 + tl.arange(0, 32)[None, :]
    place = places(energies, pitch, base, t0, 32, FRAMES_FIRST)
    tile = tl.load(place, mask=(token < S - 1) & (t > 0) & (t < T), other=1.0)
    x = columns(tile)
    stays = tl.zeros([32], tl.int32)
    bad = stays
    one = stays + 1
    for j in tl.static_range(32):
        energy = widen(x[j], ACC)
        stays |= tl.where(energy > 0, one << j, 0)
        bad |= tl.where(energy == energy, 0, one << j)
    return stays, bad


@kernel
def stepwise_hard_kernel(
    energies,
    tokens,
    frames,
    paths,
    statuses,
    most_tokens,
    most_frames,
    ACC: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """The token of each frame: `items` programs.

    Args:
        energies, tokens, frames: as `stepwise_forward_kernel` takes them.
        paths: int32 [items, most_frames], written; 0 beyond lengths.
        statuses: int32 [items], written: OK, NOT_FINITE, or INTERNAL for lengths that go beyond.
    """
    b = tl.program_id(0)
    S, T, status = lengths_of(tokens, frames, b, most_tokens, most_frames)
    pitch = most_tokens if FRAMES_FIRST else most_frames
    energies += b.to(tl.int64) * most_tokens * most_frames
    paths += b.to(tl.int64) * most_frames
    lane = tl.arange(0, 32)
    at = tl.full([], 0, tl.int32)
    seen = tl.zeros([32], tl.int32)
    for t0 in range(0, most_frames, 32):
        stays, bad = _choices(energies, pitch, at, t0, S, T, ACC, FRAMES_FIRST)
        passed = tl.zeros([32], tl.int32)  # uniform
        path = tl.zeros([32], tl.int32)
        for j in tl.static_range(32):
            seen |= (tl.gather(bad, passed, 0) >> j) & 1
            passed += 1 - ((tl.gather(stays, passed, 0) >> j) & 1)
            path = tl.where(lane == j, passed, path)
        t = t0 + lane
        tl.store(paths + t, tl.where(t < T, at + path, 0), mask=t < most_frames)
        at += tl.max(passed, 0)
    status = tl.where((status == OK) & (tl.max(seen, 0) != 0), NOT_FINITE, status)
    tl.store(statuses + b, status)
