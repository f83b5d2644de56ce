"""Stepwise monotonic attention as users call it, against the reference: values, gradients, paths, heads, errors."""

import math
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS
from kernels.subprocesses import run_script
from numba import njit

import alignd_kernels as ak
from alignd_kernels.dtypes import DType
from alignd_kernels.stepwise import cpu, reference
from alignd_kernels.threads import WorkerPool

torch = pytest.importorskip("torch")

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
TYPES = {dtype: getattr(torch, dtype.value) for dtype in DType}
ULP = {DType.FLOAT64: 2.0**-52} | dict.fromkeys((DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32), 2.0**-23)
TINY = {dtype: float(np.finfo(dtype.accumulator).tiny) for dtype in DType}
# What a gradient loses when it is rounded to the energies' type: half an ulp, or half the least subnormal number.
ROUNDING = {DType.FLOAT16: (2.0**-11, 2.0**-25), DType.BFLOAT16: (2.0**-8, 2.0**-134)}


class Batch(NamedTuple):
    """What a test asks about, and in which type."""

    dtype: DType
    energies: Any  # [B, S, T] or [B, H, S, T], NaN beyond lengths
    tokens: list[int]
    frames: list[int]
    initial: Any
    end: Any

    def items(self) -> list[tuple[Any, np.ndarray, np.ndarray | None]]:
        """For each item and head where it lies in a result, its energies and initial attention, in float64."""
        found = []
        heads = range(self.energies.shape[1]) if self.energies.dim() == 4 else [None]
        for b, (S, T) in enumerate(zip(self.tokens, self.frames)):
            for h in heads:
                at = (b,) if h is None else (b, h)
                initial = None if self.initial is None else self.initial[at][:S].double().numpy()
                found.append(((*at, slice(S), slice(T)), self.energies[at][:S, :T].double().numpy(), initial))
        return found


@st.composite
def batches(draw: st.DrawFn, max_tokens: int = 40, max_frames: int = 70) -> Batch:
    """Ragged, now more tokens than frames, now fewer, none of either at times; certain choices among the energies."""
    rng, dtype = draw(GENERATORS), draw(st.sampled_from(DType))
    sizes = st.tuples(st.integers(0, max_tokens), st.integers(0, max_frames))
    shapes = draw(st.lists(sizes, min_size=1, max_size=4))
    heads = draw(st.sampled_from([(), (1,), (3,)]))
    S, T = (max(pair[axis] for pair in shapes) + draw(st.integers(0, 2)) for axis in (0, 1))
    values = rng.standard_normal((len(shapes), *heads, S, T)) * 10.0 ** rng.integers(-2, 3)
    values = np.where(rng.random(values.shape) < 0.05, rng.choice([np.inf, -np.inf, 100.0, -100.0]), values)
    initial = torch.from_numpy(rng.random((len(shapes), *heads, S))) if draw(st.booleans()) else None
    for b, (tokens, frames) in enumerate(shapes):
        values[b, ..., tokens:, :] = np.nan
        values[b, ..., frames:] = np.nan
        if initial is not None:
            initial[b, ..., tokens:] = np.nan
    energies = torch.from_numpy(values).to(TYPES[dtype])
    if draw(st.booleans()):  # as of [..., T, S]
        energies = energies.transpose(-1, -2).contiguous().transpose(-1, -2)
    kind = torch.float64 if dtype is DType.FLOAT64 else torch.float32
    tokens, frames = [pair[0] for pair in shapes], [pair[1] for pair in shapes]
    initial = None if initial is None else initial.to(kind)
    return Batch(dtype, energies, tokens, frames, initial, draw(st.sampled_from(["keep", "leak"])))


def asked(batch: Batch, **options: Any) -> Any:
    lengths = torch.tensor(batch.tokens), torch.tensor(batch.frames)
    return ak.stepwise_expectation(batch.energies, *lengths, end=batch.end, initial=batch.initial, **options)


def alpha_tolerance(dtype: DType, frames: int) -> dict[str, float]:
    """Stated with the kernels: 5 ulp a frame, and what is below the normal numbers. Twice that in float64, in which the
    reference is rounded too."""
    times = 10 if dtype is DType.FLOAT64 else 5
    return {"rtol": times * (frames + 1) * ULP[dtype], "atol": frames * TINY[dtype]}


def majorant(energies: np.ndarray, upstream: np.ndarray, end: str) -> np.ndarray:
    """Of |G[s, t]| and |G[s+1, t]| together (see `reference.gradient`): what a gradient's terms are at most, but for
    alpha, p and 1 - p. [S, T]."""
    S, T = energies.shape
    with np.errstate(over="ignore"):
        stay = 1 / (1 + np.exp(-energies))
    if end == "keep":
        stay[-1:] = 1
    G, found = np.zeros(S + 1), np.zeros((S, T))
    for t in range(T - 1, -1, -1):
        G[:S] += np.abs(upstream[:, t])
        found[:, t] = G[:S] + G[1:]
        G[:S] = stay[:, t] * G[:S] + (1 - stay[:, t]) * G[1:]
    return found


def gradient_tolerance(batch: Batch, energies: np.ndarray, initial: Any, upstream: np.ndarray) -> np.ndarray:
    """alpha is off by 5 ulp a frame, so is G, by its terms' magnitudes; then p · (1 - p) and three roundings."""
    S, T = energies.shape
    alpha = reference.expectation(energies, batch.end, "paper", initial)
    before = np.concatenate((np.zeros((S, 1)), alpha[:, :-1]), 1) if T else alpha
    with np.errstate(over="ignore"):
        stay = 1 / (1 + np.exp(-energies))
        move = 1 / (1 + np.exp(energies))
    terms = majorant(energies, upstream, batch.end)
    times = 2 if batch.dtype is DType.FLOAT64 else 1
    share = times * (10 * T + 16) * ULP[batch.dtype]
    return share * before * stay * move * terms + 2 * (T + 1) * TINY[batch.dtype] * (terms.max(initial=0) + 1)


@SETTINGS
@given(batches())
def test_expectation_is_the_references(batch: Batch) -> None:
    found = asked(batch)
    assert found.dtype == (torch.float64 if batch.dtype is DType.FLOAT64 else torch.float32)
    assert found.shape == batch.energies.shape
    beyond = torch.ones_like(found)
    for at, energies, initial in batch.items():
        expected = reference.expectation(energies, batch.end, "paper", initial)
        np.testing.assert_allclose(found[at].numpy(), expected, **alpha_tolerance(batch.dtype, energies.shape[1]))
        beyond[at] = 0
    assert (found * beyond == 0).all()


@SETTINGS
@given(batches(), GENERATORS)
def test_gradient_is_the_references(batch: Batch, rng: np.random.Generator) -> None:
    energies = batch.energies.clone().requires_grad_()
    initial = None if batch.initial is None else batch.initial.clone().requires_grad_()
    found = asked(batch._replace(energies=energies, initial=initial))
    upstream = torch.from_numpy(rng.standard_normal(found.shape)).to(found.dtype)
    given = torch.full_like(upstream, torch.nan)  # what is beyond lengths has no say
    for at, *_ in batch.items():
        given[at] = upstream[at]
    found.backward(given)
    assert energies.grad.dtype == batch.energies.dtype
    beyond = torch.ones_like(found)
    for at, own, start in batch.items():
        up = upstream[at].double().numpy()
        expected, expected_start = reference.gradient(own, up, batch.end, "paper", start)
        tolerance = gradient_tolerance(batch, own, start, up)
        share, least = ROUNDING.get(batch.dtype, (0.0, 0.0))
        tolerance = tolerance + share * np.abs(expected) * (1 + 2.0**-8) + least
        assert (np.abs(energies.grad[at].double().numpy() - expected) <= tolerance).all()
        beyond[at] = 0
        if initial is not None and own.shape[1] > 0:
            T = own.shape[1]
            terms = majorant(own, up, batch.end)[:, 0]
            most = 10 * (T + 1) * ULP[batch.dtype] * terms + T * TINY[batch.dtype]
            assert (np.abs(initial.grad[at[:-1]].double().numpy() - expected_start) <= most).all()
    assert (energies.grad * beyond == 0).all()


@SETTINGS
@given(batches(max_tokens=8, max_frames=20))
def test_the_published_form_is_the_references(batch: Batch) -> None:
    finite = batch.energies.nan_to_num(nan=torch.nan, posinf=100.0, neginf=-100.0).clamp(-100, 100)
    batch = batch._replace(energies=finite)
    found = asked(batch, form="sma")
    for at, energies, initial in batch.items():
        expected = reference.expectation(energies, batch.end, "sma", initial)
        T = energies.shape[1]
        tolerance = alpha_tolerance(batch.dtype, T + 1)
        # A weight is off by the rounding of its exponent, at most 200, and of a sum; p by a quarter of that, and a
        # token's weights sum to 1.
        tolerance["rtol"] += 2 * (200 + T + 4) * ULP[batch.dtype]
        np.testing.assert_allclose(found[at].numpy(), expected, **tolerance)


@pytest.mark.parametrize("form", ["paper", "sma"])
@pytest.mark.parametrize("end", ["keep", "leak"])
@pytest.mark.parametrize("heads", [(), (2,)])
def test_gradcheck(form: Any, end: Any, heads: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    energies = torch.randn(3, *heads, 5, 8, dtype=torch.float64, generator=rng, requires_grad=True)
    initial = torch.rand(3, *heads, 5, dtype=torch.float64, generator=rng, requires_grad=True)
    lengths = torch.tensor([5, 1, 3]), torch.tensor([8, 4, 2])
    options = {"form": form, "end": end}
    assert torch.autograd.gradcheck(lambda x: ak.stepwise_expectation(x, *lengths, **options), (energies,))
    assert torch.autograd.gradcheck(
        lambda x, start: ak.stepwise_expectation(x, *lengths, initial=start, **options), (energies, initial)
    )


def test_defaults_of_the_forms() -> None:
    energies = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    for form, end, other in (("paper", "keep", "leak"), ("sma", "leak", "keep")):
        found = ak.stepwise_expectation(energies, form=form)
        assert torch.equal(found, ak.stepwise_expectation(energies, form=form, end=end))
        assert not torch.equal(found, ak.stepwise_expectation(energies, form=form, end=other))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 0, 3, 4), (0, 0), (1, 1), (5, 2), (1, 9)])
def test_shapes_without_or_with_few_elements(shape: tuple[int, ...]) -> None:
    energies = torch.zeros(shape, requires_grad=True)
    found = ak.stepwise_expectation(energies)
    assert found.shape == shape
    found.sum().backward()
    assert energies.grad.shape == shape
    assert ak.stepwise_hard(energies).shape == (*shape[:-2], shape[-1])
    if shape == (1, 9):
        assert (found == 1).all()


def test_any_strides_and_no_change_of_the_input() -> None:
    base = torch.randn(4, 6, 20, 9, generator=torch.Generator().manual_seed(0))
    expected = ak.stepwise_expectation(base[1:, ::2, ::2, :].contiguous())
    kept = base.clone()
    assert torch.equal(ak.stepwise_expectation(base[1:, ::2, ::2, :]), expected)
    turned = base[1:, ::2, ::2, :].transpose(-1, -2).contiguous().transpose(-1, -2)
    found = ak.stepwise_expectation(turned)
    assert torch.equal(found, expected)
    assert found.stride() == turned.stride()
    assert torch.equal(base, kept)


def test_a_batch_is_its_items_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    energies, upstream = rng.standard_normal((2, 9, 40, 700)).astype(np.float32)
    tokens, frames = rng.integers(1, 41, 9), rng.integers(1, 701, 9)
    batch = cpu.StepwiseBatch(energies, DType.FLOAT32, tokens, frames)
    alpha = cpu.forward(batch)
    gradient, _ = cpu.backward(batch, alpha, upstream)
    for threads in (2, 7):
        with WorkerPool(threads) as pool:
            np.testing.assert_array_equal(cpu.forward(batch, pool), alpha)
            np.testing.assert_array_equal(cpu.backward(batch, alpha, upstream, pool)[0], gradient)
    for n in range(9):
        S, T = tokens[n], frames[n]
        one = np.ascontiguousarray(energies[n : n + 1, :S, :T])
        alone = cpu.StepwiseBatch(one, DType.FLOAT32, tokens[n : n + 1], frames[n : n + 1])
        found = cpu.forward(alone)
        np.testing.assert_array_equal(found[0], alpha[n, :S, :T])
        up = np.ascontiguousarray(upstream[n : n + 1, :S, :T])
        np.testing.assert_array_equal(cpu.backward(alone, found, up)[0][0], gradient[n, :S, :T])


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_loops_are_vectorised(kind: str) -> None:
    rows = np.ones((2, cpu.MARGIN + 8), kind)
    loops = {"_chances": (rows, rows, 8, True), "_join": rows.repeat(2, 0), "_spread": rows.repeat(3, 0)[:5]}
    for name, arguments in loops.items():
        compiled = njit(error_model="numpy")(getattr(cpu, name).py_func)  # cached code cannot be inspected
        compiled(*arguments)
        assert re.search(r"store <\d+ x ", compiled.inspect_llvm(compiled.signatures[0])), name


@pytest.mark.parametrize("end", ["keep", "leak"])
def test_2000_frames(end: Any) -> None:
    rng = np.random.default_rng(0)
    energies = (rng.standard_normal((150, 2000)) + 2.5).astype(np.float32)  # a step about every twelve frames
    found = ak.stepwise_expectation(torch.from_numpy(energies)[None], end=end)[0].numpy()
    expected = reference.expectation(energies, end)
    np.testing.assert_allclose(found, expected, **alpha_tolerance(DType.FLOAT32, 2000))
    if end == "keep":
        assert np.abs(found.sum(0) - 1).max() < 5 * 2000 * 2.0**-23


@pytest.mark.parametrize(("kind", "last"), [(torch.float32, 149), (torch.float64, 1074)])
def test_mass_that_vanishes_is_zero_and_never_nan(kind: Any, last: int) -> None:
    """With p = 1/2, alpha[0, t] is 2^-t exactly, down to the least subnormal number."""
    energies = torch.zeros(1, 1, 2000, dtype=kind, requires_grad=True)
    alpha = ak.stepwise_expectation(energies, end="leak")
    exact = torch.ldexp(torch.ones(2000, dtype=kind), -torch.arange(2000))
    assert torch.equal(alpha[0, 0], exact)
    assert alpha[0, 0, last] > 0
    assert (alpha[0, 0, last + 1 :] == 0).all()
    alpha.sum().backward()
    assert torch.isfinite(energies.grad).all()
    assert (energies.grad[0, 0, last + 3 :] == 0).all()


def test_saturated_energies_have_no_nan_in_values_or_gradients() -> None:
    for value in (-torch.inf, -1e30, -90.0, 90.0, 1e30, torch.inf):
        energies = torch.full((1, 4, 60), value, requires_grad=True)
        alpha = ak.stepwise_expectation(energies)
        at = torch.zeros(60).long() if value > 0 else torch.arange(60).clamp(max=3)
        # 1 - p is 8e-40 at 90, below float32's normal numbers: it counts as 0.
        assert torch.equal(alpha[0], torch.nn.functional.one_hot(at, 4).T.float())
        (alpha * torch.randn(4, 60, generator=torch.Generator().manual_seed(0))).sum().backward()
        assert torch.isfinite(energies.grad).all()


def test_nan_stays_in_its_item_and_head() -> None:
    generator = torch.Generator().manual_seed(0)
    energies, upstream = torch.randn(2, 3, 2, 6, 30, generator=generator)
    results = []
    for spoiled in (False, True):
        given = energies.clone()
        if spoiled:
            given[1, 0, 2, 10] = torch.nan
        given.requires_grad_()
        alpha = ak.stepwise_expectation(given)
        alpha.backward(upstream)
        results.append((alpha.detach(), given.grad))
    (alpha, gradient), (spoiled_alpha, spoiled_gradient) = results
    others = torch.ones(3, 2, dtype=torch.bool)
    others[1, 0] = False
    assert torch.equal(alpha[others], spoiled_alpha[others])
    assert torch.equal(gradient[others], spoiled_gradient[others])
    assert torch.equal(alpha[1, 0, :, :10], spoiled_alpha[1, 0, :, :10])
    assert spoiled_alpha[1, 0, 2:4, 10].isnan().all()
    assert torch.equal(alpha[1, 0, :2], spoiled_alpha[1, 0, :2])
    assert spoiled_gradient[1, 0].isnan().any()


def test_energies_of_tokens_that_no_mass_can_have_reached_are_not_looked_at() -> None:
    energies = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    spoiled = energies.clone()
    spoiled[:, :, 0] = torch.nan  # the paper's form makes no choice in frame 0
    for t in range(1, 12):
        spoiled[:, t:, t] = torch.nan
    spoiled[:, -1] = torch.nan  # and none on the last token
    found = ak.stepwise_expectation(spoiled.requires_grad_())
    assert torch.equal(found, ak.stepwise_expectation(energies))
    found.pow(2).sum().backward()
    assert torch.isfinite(spoiled.grad).all()


def test_noise_is_drawn_only_if_asked_for_and_from_the_generator() -> None:
    energies = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    quiet = ak.stepwise_expectation(energies)
    first, second = (
        ak.stepwise_expectation(energies, noise_std=0.5, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, quiet)
    noise = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(7)) * 0.5
    assert torch.equal(first, ak.stepwise_expectation(energies + noise))
    ak.stepwise_expectation(energies, noise_std=0.5)
    assert not torch.equal(torch.get_rng_state(), state)


@SETTINGS
@given(batches(max_tokens=8))
def test_hard_is_the_references(batch: Batch) -> None:
    batch = batch._replace(tokens=[max(tokens, 1) for tokens in batch.tokens])
    if batch.energies.shape[-2] == 0:
        return
    energies = batch.energies.nan_to_num(nan=-1.0, posinf=torch.inf, neginf=-torch.inf)
    lengths = torch.tensor(batch.tokens), torch.tensor(batch.frames)
    found = ak.stepwise_hard(energies, *lengths)
    one_hot = ak.stepwise_hard(energies, *lengths, one_hot=True)
    assert found.dtype == torch.int32
    assert one_hot.dtype == energies.dtype
    for at, own, _ in batch._replace(energies=energies).items():
        expected = reference.hard(own)
        where = (*at[:-2], at[-1])
        np.testing.assert_array_equal(found[where].numpy(), expected)
        assert (found[at[:-2]][own.shape[1] :] == 0).all()
        attention = np.zeros(energies.shape[-2:])
        attention[expected, np.arange(len(expected))] = 1
        np.testing.assert_array_equal(one_hot[at[:-2]].float().numpy(), attention)


def test_hard_tells_of_nan_that_decides() -> None:
    energies = torch.ones(3, 2, 4, 6)
    energies[1, 1, 0, 3] = torch.nan
    energies[2, 0, 1, 3] = torch.nan  # never come to
    with pytest.raises(ak.InvalidItemsError, match="NaN") as caught:
        ak.stepwise_hard(energies)
    assert set(caught.value.statuses) == {3}
    assert ak.stepwise_hard(energies, frame_lengths=torch.tensor([6, 3, 6])).eq(0).all()


@SETTINGS
@given(
    GENERATORS,
    st.sampled_from(list(DType)),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4),
)
def test_focus_rate_is_the_references(rng: np.random.Generator, dtype: DType, sizes: list[tuple[int, int]]) -> None:
    attention = np.full((len(sizes), 3, 6, 8), np.nan)
    for b, (S, T) in enumerate(sizes):
        attention[b, :, :S, :T] = rng.random((3, S, T)) - 0.2
    given = torch.from_numpy(attention).to(TYPES[dtype])
    found = ak.focus_rate(given, *(torch.tensor(sizes).T))
    assert found.shape == (len(sizes), 3)
    for b, (S, T) in enumerate(sizes):
        expected = reference.focus_rate(given[b, :, :S, :T].double().numpy())
        np.testing.assert_allclose(found[b].double().numpy(), expected, rtol=16 * ULP[dtype], atol=16 * ULP[dtype])


def test_focus_rate_of_one_item_and_its_gradient() -> None:
    attention = torch.rand(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert ak.focus_rate(attention).shape == (2,)
    assert torch.equal(ak.focus_rate(attention[None]), ak.focus_rate(attention)[None])
    assert torch.autograd.gradcheck(
        lambda x: ak.focus_rate(x[None], torch.tensor([3]), torch.tensor([5])), (attention,)
    )
    assert ak.focus_rate(torch.rand(2, 3, 0, 4)).eq(0).all()
    assert ak.focus_rate(torch.rand(2, 3, 4, 0)).eq(0).all()


def test_choose_heads() -> None:
    uniform, sharp = torch.full((4, 8), 0.25), torch.eye(4).repeat_interleave(2, 1)
    attention = torch.stack(
        [torch.stack([uniform, sharp, sharp]), torch.stack([(uniform + sharp) / 2, uniform, uniform])]
    )
    best, rates = ak.choose_heads(attention)
    assert best.tolist() == [1, 0]
    assert torch.equal(rates, ak.focus_rate(attention))
    mask, _ = ak.choose_heads(attention, threshold=0.625)
    assert mask.tolist() == [[False, True, True], [True, False, False]]
    assert ak.choose_heads(attention, threshold=1.5)[0].any().item() is False
    best, rates = ak.choose_heads(attention[0])
    assert best.item() == 1
    assert rates.shape == (3,)
    spoiled = attention.clone()
    spoiled[0, 1, 0, 0] = torch.nan
    best, rates = ak.choose_heads(spoiled)
    assert best.tolist() == [2, 0]
    assert rates.isnan().tolist() == [[False, True, False], [False, False, False]]
    assert ak.choose_heads(spoiled, threshold=0.1)[0][0].tolist() == [True, False, True]
    with pytest.raises(ValueError, match="no heads"):
        ak.choose_heads(torch.zeros(2, 0, 3, 4))
    with pytest.raises(ValueError, match="threshold"):
        ak.choose_heads(attention, threshold=float("nan"))


ENERGIES = torch.zeros(2, 3, 5)
BAD: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
    (TypeError, "must be a torch tensor, not ndarray", np.zeros((2, 3, 5)), {}),
    (TypeError, "float16, bfloat16, float32 or float64, not torch.int64", ENERGIES.long(), {}),
    (ValueError, r"not of shape \(5,\)", ENERGIES[0, 0], {}),
    (ValueError, r"not of shape \(1, 1, 2, 3, 5\)", ENERGIES[None, None], {}),
    (ValueError, r"token_lengths\[1\] is 4; it must be from 0 to 3", ENERGIES, {"token_lengths": torch.tensor([3, 4])}),
    (ValueError, r"frame_lengths\[0\] is -1; it must be", ENERGIES, {"frame_lengths": torch.tensor([-1, 4])}),
    (ValueError, r"token_lengths must be of shape \(2,\)", ENERGIES, {"token_lengths": torch.tensor([3])}),
    (TypeError, "frame_lengths must be integers", ENERGIES, {"frame_lengths": torch.tensor([1.0, 2.0])}),
    (ValueError, r"shape \(3, 5\) is one item's", ENERGIES[0], {"token_lengths": torch.tensor([3])}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "energies", "lengths"), BAD)
def test_bad_input_of_both(error: type[Exception], message: str, energies: Any, lengths: dict[str, Any]) -> None:
    for function in (ak.stepwise_expectation, ak.stepwise_hard):
        with pytest.raises(error, match=message):
            function(energies, **lengths)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, 'form must be "paper" or "sma"', {"form": "he"}),
        (ValueError, 'end must be "keep" or "leak"', {"end": "drop"}),
        (ValueError, "noise_std must be finite and not negative, not -1", {"noise_std": -1.0}),
        (ValueError, "noise_std must be finite", {"noise_std": float("nan")}),
        (ValueError, r"initial must be of shape \(2, 3\)", {"initial": torch.zeros(2, 5)}),
        (TypeError, "initial must be a torch tensor", {"initial": [1.0, 0.0, 0.0]}),
    ],
)
def test_bad_options(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        ak.stepwise_expectation(ENERGIES, **options)


def test_bad_attention() -> None:
    with pytest.raises(ValueError, match=r"not of shape \(3, 5\)"):
        ak.focus_rate(ENERGIES[0])
    with pytest.raises(ValueError, match="one item's"):
        ak.focus_rate(ENERGIES, torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"token_lengths\[0\] is 9"):
        ak.focus_rate(ENERGIES[:, None], torch.tensor([9, 3]))
    with pytest.raises(TypeError, match="torch tensor"):
        ak.focus_rate(np.zeros((2, 3, 4)))


def test_other_devices_are_told_what_to_do() -> None:
    elsewhere = torch.zeros(2, 3, 5, device="meta")
    for function in (ak.stepwise_expectation, ak.stepwise_hard):
        with pytest.raises(NotImplementedError, match=r"on meta: pass energies\.cpu\(\)"):
            function(elsewhere)


def test_nothing_heavy_is_imported_before_a_call_and_a_missing_torch_is_named() -> None:
    run_script(
        "import sys, alignd_kernels as ak\n"
        "ak.stepwise_expectation, ak.focus_rate\n"
        "assert not {'torch', 'numba'} & set(sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "for call in (lambda: ak.stepwise_expectation(0), lambda: ak.focus_rate(0),\n"
        "             lambda: ak.StepwiseMonotonicMultiheadAttention):\n"
        "    try:\n"
        "        call()\n"
        "    except ImportError as error:\n"
        "        assert 'alignd-kernels[gpu]' in str(error), error\n"
        "    else:\n"
        "        raise SystemExit('no error')\n"
    )


def test_a_gradient_is_not_differentiated_again() -> None:
    energies = torch.randn(1, 3, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(ak.stepwise_expectation(energies).square().sum(), energies, create_graph=True)
    with pytest.raises(RuntimeError, match="stepwise_expectation cannot be differentiated twice"):
        gradient.sum().backward()


def test_energies_masked_by_the_least_number_leave_no_mass_in_padding() -> None:
    energies = torch.zeros(1, 3, 4)
    energies[0, 1, :2] = torch.finfo(torch.float32).min
    padded = ak.stepwise_expectation(energies, frame_lengths=[2], form="sma")
    torch.testing.assert_close(padded[..., :2], ak.stepwise_expectation(energies[..., :2], form="sma"))


def test_nan_beyond_the_lengths_has_no_gradient() -> None:
    attention = torch.rand(1, 2, 3, 4)
    attention[..., 3] = math.nan
    attention.requires_grad_()
    ak.focus_rate(attention, frame_lengths=[3]).sum().backward()
    assert attention.grad[..., :3].isfinite().all()
    assert not attention.grad[..., 3].any()
