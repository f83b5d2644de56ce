"""Bringing cache lines nearer before they are read, where processors do not foresee which come next."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def emit_prefetch(builder: Any, address: Any) -> None:
    """Code that brings the line at an address, an int64, into the second-level cache. One beyond any array does no
    harm."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    to_read, second_level, data_cache = (ir.Constant(flag, number) for number in (0, 2, 1))
    builder.call(function, [builder.inttoptr(address, byte), to_read, second_level, data_cache])


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, address: Any) -> Any:
    """`emit_prefetch`, for compiled code."""
    if not isinstance(address, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate
