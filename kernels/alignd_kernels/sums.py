# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""What sums over all paths of a lattice share, where a frame is held as mantissas and exponents (`vector_math`)."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from alignd_kernels.compile_cache import part
from alignd_kernels.status import Status
from alignd_kernels.vector_math import normalised

BLOCK: Final = 16
"""Frames between two normalisations of the mantissas, which at most triple in each and lose at most a third. Also those
that are turned at once where frames are contiguous: a cache line of float32 of each token."""


def costs_of(scores: npt.NDArray[np.float64], statuses: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Costs of items, float64 [B], from their log-likelihoods and statuses: +inf where there is no path."""
    pathless = (statuses == Status.TOO_FEW_FRAMES) | (statuses == Status.NO_FINITE_PATH)
    return np.where(pathless, np.inf, -scores)


@part
def normalise(M, E):
    for s in range(len(M)):
        f, k = normalised(M[s])
        M[s] = f
        E[s] += k


@part
def not_finite(E):
    """Whether an exponent is NaN or +inf, as those of a bad score are."""
    found = False
    for s in range(len(E)):
        found |= not E[s] < np.inf
    return found


@part
def summed(total, exponents):
    """The log-likelihood `total`, or −inf where it needs more powers of two than the exponents' type holds exactly."""
    limit = 2.0**23 if exponents.itemsize == 4 else 2.0**52
    return total if abs(total) < limit * np.log(2.0) else -np.inf


@intrinsic
def distinct(typing_context: Any) -> Any:
    """Promises that no array argument of the function that calls this is written to through another one.

    Otherwise a loop over many arrays is not compiled to vectors: it would have to compare too many addresses first.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for argument in builder.function.args[2:]:  # after the places of the result and of an exception
            if isinstance(argument.type, ir.PointerType) and argument.type != ir.IntType(8).as_pointer():
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), generate
