"""Exponentials and logarithms of the CPU kernels against exact ones, and whether their loops are vectorised."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numba import njit

from alignd_kernels.vector_math import exp, exp_of_negative, exp_parts, log1p, normalised, power_of_two

KINDS = [np.float32, np.float64]
Array = npt.NDArray[Any]
plain = njit(error_model="numpy")  # as the kernels, but not cached: cached code cannot be inspected


@plain
def each_exp(x, out):
    for i in range(len(x)):
        out[i] = exp(x[i])


@plain
def each_exp_of_negative(x, out):
    for i in range(len(x)):
        out[i] = exp_of_negative(x[i])


@plain
def each_log1p(x, out):
    for i in range(len(x)):
        out[i] = log1p(x[i])


@plain
def each_exp_parts(x, f, n):
    for i in range(len(x)):
        f[i], n[i] = exp_parts(x[i])


@plain
def each_power_of_two(x, out):
    for i in range(len(x)):
        out[i] = power_of_two(x[i])


@plain
def each_normalised(m, f, k):
    for i in range(len(m)):
        f[i], k[i] = normalised(m[i])


def called(function: Callable[..., None], x: Array, outputs: int = 1) -> Any:
    found = [np.empty_like(x) for _ in range(outputs)]
    function(x, *found)
    return found[0] if outputs == 1 else found


def ulps(found: Array, exact: npt.NDArray[np.longdouble]) -> float:
    """The largest error, in units in the last place of the result."""
    spacing = np.spacing(np.abs(exact).astype(found.dtype)).astype(np.longdouble)
    return float((np.abs(found.astype(np.longdouble) - exact) / spacing).max())


def wide(x: Array) -> npt.NDArray[np.longdouble]:
    return x.astype(np.longdouble)


needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no more precise than float64 on this system"
)


def ranges(kind: type) -> Array:
    """Arguments of exp: near zero, of the size that lattices have, and to both ends of the type."""
    rng = np.random.default_rng(0)
    least, most = np.log(float(np.finfo(kind).tiny)), np.log(float(np.finfo(kind).max))
    parts = [rng.uniform(-1, 1, 100_000), rng.uniform(-20, 0, 100_000), rng.uniform(least, most, 200_000)]
    parts += [np.linspace(least, least + 1, 1000), np.linspace(most - 1, most, 1000)]
    x = np.concatenate(parts).astype(kind)
    return x[(wide(x) > least) & (wide(x) < most - 1e-5)]


@needs_long_double
@pytest.mark.parametrize("kind", KINDS)
def test_exp(kind: type) -> None:
    x = ranges(kind)
    assert ulps(called(each_exp, x), np.exp(wide(x))) < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_ends_of_exp(kind: type) -> None:
    least, most = np.log(float(np.finfo(kind).tiny)), np.log(float(np.finfo(kind).max))
    x = np.array([0, -0.0, least - 1, -1e30, -np.inf, most + 1, 1e30, np.inf, np.nan], kind)
    np.testing.assert_array_equal(called(each_exp, x), np.array([1, 1, 0, 0, 0, np.inf, np.inf, np.inf, np.nan], kind))


@needs_long_double
@pytest.mark.parametrize("kind", KINDS)
def test_exp_of_negative(kind: type) -> None:
    x = ranges(kind)
    x = x[x <= 0]
    assert ulps(called(each_exp_of_negative, x), np.exp(wide(x))) < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_ends_of_exp_of_negative(kind: type) -> None:
    least = np.log(float(np.finfo(kind).tiny))
    x = np.array([0, -0.0, least - 1, -1e30, -np.inf, np.nan], kind)
    np.testing.assert_array_equal(called(each_exp_of_negative, x), np.array([1, 1, 0, 0, 0, np.nan], kind))


@needs_long_double
@pytest.mark.parametrize("kind", KINDS)
def test_log1p(kind: type) -> None:
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.random(300_000), np.exp(rng.uniform(-80, 0, 100_000)), [0, 1]]).astype(kind)
    assert ulps(called(each_log1p, y), np.log1p(wide(y))) < 2.5
    assert np.isnan(called(each_log1p, np.array([np.nan], kind))).all()


@needs_long_double
@pytest.mark.parametrize("kind", KINDS)
def test_exp_in_parts(kind: type) -> None:
    x = np.random.default_rng(2).uniform(-1000, 1000, 200_000).astype(kind)
    f, n = called(each_exp_parts, x, 2)
    np.testing.assert_array_equal(n, np.rint(n))
    assert f.min() > 0.7
    assert f.max() < 1.42
    exact = np.exp(wide(x) - wide(n) * np.log(np.longdouble(2)))
    assert np.abs(wide(f) - exact).max() < 1.5 * np.finfo(kind).eps


@pytest.mark.parametrize("kind", KINDS)
def test_exp_in_parts_of_what_is_not_finite_or_very_large(kind: type) -> None:
    f, n = called(each_exp_parts, np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], kind), 2)
    np.testing.assert_array_equal(n[:3], np.array([-np.inf, np.inf, np.nan], kind))
    np.testing.assert_allclose(n[3:] * np.log(2), [-1e30, 1e30], 1e-6)
    assert ((f[[0, 3, 4]] > 0.7) & (f[[0, 3, 4]] < 1.42)).all()


@pytest.mark.parametrize(("kind", "last"), [(np.float32, -100), (np.float64, -1000)])
def test_powers_of_two(kind: type, last: int) -> None:
    d = np.arange(0, last, -1).astype(kind)
    np.testing.assert_array_equal(called(each_power_of_two, d), np.ldexp(kind(1), d.astype(int)))
    nothing = np.array([last, last - 1, -1e30, -np.inf, np.nan], kind)
    np.testing.assert_array_equal(called(each_power_of_two, nothing), np.zeros(5, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_normalised(kind: type) -> None:
    m = np.exp2(np.random.default_rng(3).uniform(-60, 60, 10_000)).astype(kind)
    f, k = called(each_normalised, m, 2)
    expected, exponent = np.frexp(m)
    np.testing.assert_array_equal(f, expected * 2)
    np.testing.assert_array_equal(k, exponent - 1)
    f, k = called(each_normalised, np.zeros(1, kind), 2)
    assert f[0] == 1
    assert k[0] < np.log2(np.finfo(kind).tiny)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "function", [each_exp, each_exp_of_negative, each_log1p, each_exp_parts, each_power_of_two, each_normalised]
)
def test_loops_are_vectorised(function: Any, kind: type) -> None:
    function(*[np.ones(4, kind) for _ in range(3 if function in (each_exp_parts, each_normalised) else 2)])
    signature = next(s for s in function.signatures if s[0].dtype.name == kind.__name__)
    assert re.search(r"store <\d+ x ", function.inspect_llvm(signature))
