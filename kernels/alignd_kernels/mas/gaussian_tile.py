# mypy: disable-error-code="untyped-decorator"
"""Gaussian log-likelihoods of a block of frames under a vector or two of tokens, in vector registers.

Tokens are lanes, so that a frame's row comes out as the search reads it where tokens are contiguous. Each channel costs
a cell two fused multiply-adds, of the distance and of its square: as many as the two matrix products of the square
multiplied out, without what these lose where the squares cancel.
"""

import platform
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from alignd_kernels.numba_helpers import lanes_of

BLOCK_FRAMES: Final = 12
"""Frames of a block: with two vectors of tokens 24 sums, of the 32 registers of AVX-512."""

NARROW_FRAMES: Final = 4
"""On other machines, where a vector takes two or four registers: four frames of one vector at a time."""


def _has(feature: str) -> bool:
    features: str = cpu_target.target_context.codegen()._get_host_cpu_features()
    return feature in features.split(",")


def wide() -> bool:
    """Whether this processor's registers are as wide as the vectors."""
    return _has("+avx512f")


def _fuses() -> bool:
    """Whether it has fused multiply-adds: of x86's some old ones have none, and the C library's take long."""
    return _has("+fma") or platform.machine() not in ("x86_64", "AMD64")


def block_frames(model: Any) -> int:
    """Frames of a block, a constant of the compiled code."""
    raise NotImplementedError("compiled by Numba only")


@overload(block_frames)
def _block_frames(model):  # type: ignore[no-untyped-def]
    count = BLOCK_FRAMES if wide() else NARROW_FRAMES
    return lambda model: count


def block_vectors(model: Any) -> int:
    """Vectors of tokens at a time, most of them, a constant of the compiled code."""
    raise NotImplementedError("compiled by Numba only")


@overload(block_vectors)
def _block_vectors(model):  # type: ignore[no-untyped-def]
    count = 2 if wide() else 1
    return lambda model: count


def _block(vectors: int) -> Any:
    """An intrinsic that fills cells of `block_frames` frames × `vectors` · N tokens.

    Args:
        model: an array of the accumulator's type.
        z: address of frame 0's latent.
        frame_step: bytes from a frame's to the next one's.
        channel_step: bytes from a channel to the next.
        channels: C, at least 1.
        weights: address of accumulators [C, 2, vectors · N]: 1/σ, and −mean/σ.
        constants: address of accumulators [vectors · N].
        cells: address of frame 0's cell of the first of these tokens; rows of the accumulator's type.
        pitch: bytes from a frame's cells to the next one's.
        frame: the first of the block.
        last: of the item; it stands in for those beyond it.
    """

    @intrinsic
    def fill(
        typing_context: Any,
        model: Any,
        z: Any,
        frame_step: Any,
        channel_step: Any,
        channels: Any,
        weights: Any,
        constants: Any,
        cells: Any,
        pitch: Any,
        frame: Any,
        last: Any,
    ) -> Any:
        if not isinstance(model, types.Array):
            return None

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _BlockCode(builder, context, model.dtype, vectors).generate(*args[1:])
            return context.get_dummy_value()

        return types.void(model, *[types.int64] * 10), generate

    return fill


class _BlockCode:
    """What the intrinsic is built of: addresses are int64."""

    def __init__(self, builder: Any, context: Any, accumulator: Any, vectors: int) -> None:
        self._builder, self._vectors = builder, vectors
        self._N, self._size = lanes_of(accumulator), accumulator.bitwidth // 8
        self._float = context.get_data_type(accumulator)
        self._vector = ir.VectorType(self._float, self._N)
        self._number = ir.IntType(64)
        self._frames = BLOCK_FRAMES if wide() else NARROW_FRAMES

    def generate(
        self, z: Any, frame_step: Any, channel_step: Any, channels: Any, weights: Any, constants: Any,
        cells: Any, pitch: Any, frame: Any, last: Any,
    ) -> None:  # fmt: skip
        builder = self._builder
        rows = []
        for r in range(self._frames):
            row = builder.add(frame, self._count(r))
            rows.append(builder.select(builder.icmp_signed("<", row, last), row, last))
        latents = [builder.add(z, builder.mul(row, frame_step)) for row in rows]
        sums = [
            [cgutils.alloca_once_value(builder, self._every(0.0)) for _ in range(self._vectors)] for _ in latents
        ]  # which LLVM keeps in registers
        self._add_channels(latents, channel_step, channels, weights, sums)
        for v in range(self._vectors):
            constant = self._load(self._lane(constants, v), self._vector)
            for row, own in zip(rows, sums):
                cell = self._multiply_add(builder.load(own[v]), self._every(-0.5), constant)
                there = self._lane(builder.add(cells, builder.mul(row, pitch)), v)
                builder.store(cell, builder.inttoptr(there, self._vector.as_pointer())).align = self._size

    def _add_channels(self, latents: Any, channel_step: Any, channels: Any, weights: Any, sums: Any) -> None:
        """The squares of the distances, channel by channel."""
        builder, before = self._builder, self._builder.block
        body, done = builder.append_basic_block("channel"), builder.append_basic_block("channels_done")
        builder.branch(body)
        builder.position_at_end(body)
        counters = [builder.phi(self._number) for _ in range(3)]
        left, offset, here = counters
        for counter, first in zip(counters, (channels, self._count(0), weights)):
            counter.add_incoming(first, before)
        inverse = [self._load(self._lane(here, v), self._vector) for v in range(self._vectors)]
        shift = [self._load(self._lane(here, self._vectors + v), self._vector) for v in range(self._vectors)]
        for latent, own in zip(latents, sums):
            value = self._splat(self._load(builder.add(latent, offset), self._float))
            for v in range(self._vectors):
                distance = self._multiply_add(value, inverse[v], shift[v])
                builder.store(self._multiply_add(distance, distance, builder.load(own[v])), own[v])
        left_then = builder.sub(left, self._count(1))
        left.add_incoming(left_then, body)
        offset.add_incoming(builder.add(offset, channel_step), body)
        here.add_incoming(self._lane(here, 2 * self._vectors), body)
        builder.cbranch(builder.icmp_signed(">", left_then, self._count(0)), body, done)
        builder.position_at_end(done)

    def _count(self, value: int) -> Any:
        return ir.Constant(self._number, value)

    def _lane(self, address: Any, vectors: int) -> Any:
        return self._builder.add(address, self._count(vectors * self._N * self._size))

    def _every(self, value: float) -> Any:
        return ir.Constant(self._vector, [value] * self._N)

    def _load(self, address: Any, kind: Any) -> Any:
        loaded = self._builder.load(self._builder.inttoptr(address, kind.as_pointer()))
        loaded.align = self._size
        return loaded

    def _splat(self, one: Any) -> Any:
        word = ir.IntType(32)
        first = self._builder.insert_element(ir.Constant(self._vector, ir.Undefined), one, ir.Constant(word, 0))
        return self._builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(word, self._N), [0] * self._N))

    def _multiply_add(self, one: Any, other: Any, more: Any) -> Any:
        if not _fuses():
            return self._builder.fadd(self._builder.fmul(one, other), more)
        kind = ir.FunctionType(self._vector, [self._vector] * 3)
        name = f"llvm.fma.v{self._N}{'f64' if self._size == 8 else 'f32'}"
        return self._builder.call(cgutils.get_or_insert_function(self._builder.module, kind, name), [one, other, more])


fill_one, fill_two = _block(1), _block(2)
