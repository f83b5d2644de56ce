# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: B007, RUF005  (Triton knows no starred expressions)
"""Monotonic alignment search as a Triton kernel: one program of one warp for each item.

The lattice is walked in strips of 32·K tokens, thread l owning the K adjacent tokens from s0 + l·K. The scores of a
strip's tokens stay in registers while all its frames pass; what the next strip needs, the scores of the last token in
every frame, goes through a row of scratch. Each cell leaves one bit (stay or move), 32 frames to a word.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    EMPTY,
    INTERNAL,
    MAX_FRAMES,
    NEVER,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    STEP,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    entry,
    fill_zeros,
    sum_in_order,
    uniform,
    visited,
    widen,
    within,
)


@triton.jit
def _load(rows, first, slack, t, K: tl.constexpr, STEP: tl.constexpr):
    """Scores of frames t … t + STEP − 1, frame by frame K vectors; −∞ outside the band, whatever stands there.

    That alone keeps the band clean: before a token's first frame all that can reach it is −∞ too, and what happens to
    it after its last frame (even NaN, where −∞ meets a sum that has overflowed) reaches no cell of the band.
    """
    masks = ()
    for k in tl.static_range(K):
        masks = masks + (visited(t, first[k], slack),)
    x = ()
    for j in tl.static_range(STEP):
        for k in tl.static_range(K):
            x = x + (tl.load(rows[k] + t + j, mask=((masks[k] >> j) & 1) != 0, other=float("-inf")),)
    return x


@triton.jit
def _strip(values, pitch, S, T, s0, left, right, bits, ACC: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr):
    """Tokens s0 … s0 + 32·K − 1 in all frames in which a path can visit them.

    Args:
        left: scores of token s0 − 1 by frame, read.
        right: scores of the strip's last token (S − 1 in the last strip) by frame, written.
        bits: words of the strip, [chunk from s0 // 32 on, token of the strip], written.

    Returns:
        1 if a cell that a path can visit holds NaN or +∞, else 0.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    slack = T - S  # a path can visit token s in the frames s … s + slack
    first = ()
    rows = ()
    v = ()
    for k in tl.static_range(K):
        token = s0 + lane * K + k
        first = first + (tl.where(token < S, token, NEVER),)
        rows = rows + (values + token.to(tl.int64) * pitch,)
        v = v + (tl.full([32], float("-inf"), ACC),)
    edge = tl.minimum(32 * K, S - s0) - 1
    worst = tl.full([32], float("-inf"), ACC)  # NaN if any is
    begin = s0 // 32
    x = _load(rows, first, slack, begin * 32, K, STEP)
    x_next = _load(rows, first, slack, begin * 32 + STEP, K, STEP)
    for chunk in range(begin, tl.cdiv(tl.minimum(T, slack + s0 + 32 * K), 32)):
        t0 = chunk * 32
        # The left neighbour's scores one frame earlier. Before frame 0 a path stands left of token 0 with score 0.
        t_left = t0 - 1 + lane
        known = within(t_left, s0 - 1, slack) & (s0 > 0)
        entering = tl.load(left + t_left, mask=known, other=float("-inf"))
        entering = tl.where(s0 + t0 + lane == 0, 0.0, entering)
        leaving = tl.full([32], float("-inf"), ACC)
        words = ()
        for k in tl.static_range(K):
            words = words + (tl.zeros([32], tl.int32),)
        for done in range(0, 32, STEP):
            t = t0 + done
            x_after = _load(rows, first, slack, t + 2 * STEP, K, STEP)
            from_left = tl.gather(entering, (lane + done) % 32, 0)
            new_words = ()
            for k in tl.static_range(K):
                new_words = new_words + (tl.zeros([32], tl.int32),)
            for j in tl.static_range(STEP):
                move = tl.where(lane == 0, entry(from_left, j), tl.gather(v[K - 1], before, 0))
                new_v = ()
                set_words = ()
                for k in tl.static_range(K):
                    score = widen(x[j * K + k], ACC)
                    worst = tl.maximum(worst, score, propagate_nan=tl.PropagateNan.ALL)
                    moves = move > v[k]
                    new_v = new_v + (score + tl.where(moves, move, v[k]),)
                    set_words = set_words + (new_words[k] | tl.where(moves, 1 << j, 0),)
                    move = v[k]
                v = new_v
                new_words = set_words
                edges = v[0]
                for k in tl.static_range(1, K):
                    edges = tl.where(edge % K == k, v[k], edges)
                leaving = tl.where(lane == done + j, entry(edges, edge // K), leaving)
            all_words = ()
            for k in tl.static_range(K):
                all_words = all_words + (words[k] | (new_words[k] << done),)
            words = all_words
            x = x_next
            x_next = x_after
        for k in tl.static_range(K):
            tl.store(bits + (chunk - begin).to(tl.int64) * (32 * K) + lane * K + k, words[k])
        tl.store(right + t0 + lane, leaving, mask=t0 + lane < T)
    return tl.max(tl.where(worst < float("inf"), 0, 1), 0)


@triton.jit
def _trace(values, pitch, S, T, bits, chunks, durations, on_path, K: tl.constexpr, STEP: tl.constexpr):
    """Follow the moves back from (S − 1, T − 1), 32 frames at a time: they pass at most 32 tokens.

    Args:
        chunks: words of a token in `bits`.
        durations: [S], written.
        on_path: [T], the path's score of each frame, written.

    Returns:
        the token of frame 0 (0, or something is broken).
    """
    W: tl.constexpr = 32 * K
    lane = tl.arange(0, 32)
    token = tl.full([32], S - 1, tl.int32)  # uniform
    carried = tl.zeros([32], tl.int32)  # uniform: frames of `token` in the chunks after this one
    last = tl.cdiv(T, 32) - 1
    for back in range(last + 1):
        chunk = last - back
        top = token
        window = top - lane  # a thread holds the word of one token: moves are then read by shuffles
        strip = window // W
        row = chunk - strip * K
        known = (window >= 0) & (row >= 0) & (row < chunks)
        place = (strip.to(tl.int64) * chunks + row) * W + window % W
        word = tl.load(bits + place, mask=known, other=0)
        path = tl.zeros([32], tl.int32)
        count = tl.where(lane == 0, carried, 0)
        for done in range(0, 32, STEP):
            for i in tl.static_range(STEP):
                j = 31 - done - i
                t = chunk * 32 + j
                path = tl.where(lane == j, token, path)
                count += tl.where((window == token) & (t < T), 1, 0)
                moved = (tl.gather(word, top - token, 0) >> j) & 1
                token -= tl.where((t > 0) & (t < T), moved, 0)
        t = chunk * 32 + lane
        x = tl.load(values + path.to(tl.int64) * pitch + t, mask=(t < T) & (path >= 0), other=0.0)
        tl.store(on_path + t, widen(x, on_path.dtype.element_ty), mask=t < T)
        # Of a token that goes on in the chunk before, the frames so far are carried: each duration is stored once.
        tl.store(durations + window, count, mask=(window >= 0) & ((window > token) | (chunk == 0)))
        carried = tl.where(top - token < 32, tl.gather(count, tl.minimum(top - token, 31), 0), 0)
    return tl.max(token, 0)


@triton.jit(
    do_not_specialize=["pitch_of_table"],
    do_not_specialize_on_alignment=["values", "table", "durations", "scores", "statuses", "rows", "bits"],
)
def mas_best_path_kernel(
    values,
    table,
    durations,
    scores,
    statuses,
    rows,
    bits,
    pitch_of_table,
    ACC: tl.constexpr,
    K: tl.constexpr,
    STEP: tl.constexpr,
):
    """Best path of item `program_id`. Rows of `table`, int64: index of cell (0, 0), tokens, frames, pitch; start of the
    item's part of `durations`, of `rows` and of `bits`, each with one more entry for the end."""
    b = tl.program_id(0)
    W: tl.constexpr = 32 * K
    item = table + b
    values += tl.load(item)
    tokens = tl.load(item + pitch_of_table)
    frames = tl.load(item + 2 * pitch_of_table)
    pitch = tl.load(item + 3 * pitch_of_table)
    durations_begin = tl.load(item + 4 * pitch_of_table)
    durations_end = tl.load(item + 4 * pitch_of_table + 1)
    rows_begin = tl.load(item + 5 * pitch_of_table)
    rows_end = tl.load(item + 5 * pitch_of_table + 1)
    bits_begin = tl.load(item + 6 * pitch_of_table)
    bits_end = tl.load(item + 6 * pitch_of_table + 1)
    durations += durations_begin
    room = durations_end - durations_begin
    rows += rows_begin
    bits += bits_begin

    chunks = (frames - tokens + W - 1) // 32 + 1
    strips = tl.cdiv(tokens, W)
    fits = (strips * chunks * W <= bits_end - bits_begin) & (2 * frames <= rows_end - rows_begin)
    status = tl.where(fits & (frames <= MAX_FRAMES), OK, INTERNAL)
    status = tl.where(tokens > frames, TOO_FEW_FRAMES, status)
    status = tl.where((tokens <= 0) | (frames <= 0), EMPTY, status)
    status = tl.where(tokens > room, INTERNAL, status)
    score = tl.full([], 0.0, tl.float64)
    if status == OK:
        S = tokens.to(tl.int32)
        T = frames.to(tl.int32)
        bad = tl.full([], 0, tl.int32)
        for strip in range(strips.to(tl.int32)):
            left = rows + ((strip + 1) % 2) * frames
            right = rows + (strip % 2) * frames
            strip_bits = bits + strip * chunks * W
            strip_bad = _strip(values, pitch, S, T, strip * W, left, right, strip_bits, ACC, K, STEP)
            bad = tl.maximum(bad, strip_bad)
            # What follows reads `right`, which other threads have written, and overwrites `left`, which they have read.
            tl.debug_barrier()
        best = tl.load(rows + ((strips - 1) % 2) * frames + frames - 1)  # V[S − 1, T − 1]
        status = tl.where(tl.abs(best) < float("inf"), status, NO_FINITE_PATH)
        status = uniform(tl.where(bad == 0, status, NOT_FINITE))
        if status == OK:
            # The barrier after the last strip also orders its words, and its use of `rows`, before this; and no thread
            # has left `uniform` before all had loaded what the trace overwrites.
            start = _trace(values, pitch, S, T, bits, chunks.to(tl.int32), durations, rows, K, STEP)
            status = tl.where(start == 0, status, INTERNAL)
            tl.debug_barrier()  # the sum reads what other threads wrote to `rows`
            score = sum_in_order(rows, T).to(ACC).to(tl.float64)
    if status != OK:
        tl.debug_barrier()  # a broken trace has written durations from other threads
        fill_zeros(durations, tl.minimum(tokens, room))
        score = tl.full([], float("nan"), tl.float64)
    tl.store(scores + b, score)
    tl.store(statuses + b, status)


TOKENS_PER_THREAD: Final = {DType.FLOAT16: 2, DType.BFLOAT16: 2, DType.FLOAT32: 2, DType.FLOAT64: 1}
"""K: as many as the registers hold without spilling."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "K": TOKENS_PER_THREAD[dtype], "STEP": STEP}
