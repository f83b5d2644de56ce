"""Stepwise monotonic attention by Triton against the reference, interpreted or, with `-m gpu`, for real."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device
from kernels.strategies import GENERATORS
from kernels.test_stepwise import ROUNDING, TINY, TYPES, ULP, majorant

import alignd_kernels as ak
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import INTERPRETED
from alignd_kernels.status import Status
from alignd_kernels.stepwise import autograd, cpu_tensors, gpu, gpu_backward, gpu_forward, reference
from alignd_kernels.stepwise.gpu_item import STEP
from alignd_kernels.stepwise.tensors import PaddedBatch

# NumPy, under the interpreter, warns where energies are infinite or NaN.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

FEW = settings(max_examples=examples(6), deadline=None, derandomize=True)
LAYOUTS = pytest.mark.parametrize("frames_first", [False, True], ids=["frames contiguous", "tokens contiguous"])


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


@pytest.fixture(autouse=True)
def shorter_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes milliseconds a frame, also for those of a step that are beyond the last one."""
    if INTERPRETED:
        for dtype in DType:
            monkeypatch.setitem(STEP, dtype, 8)


@pytest.fixture
def device_of_public_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public functions run the Triton kernels: interpreted, tensors on the CPU stand for a GPU's."""
    monkeypatch.setattr(autograd, "kernels", lambda energies: gpu)


class Case(NamedTuple):
    """What a test asks about."""

    dtype: DType
    energies: torch.Tensor  # [N, S, T], NaN beyond lengths
    tokens: list[int]
    frames: list[int]
    initial: torch.Tensor | None = None  # [N, S], NaN beyond lengths
    keep: bool = True
    before: bool = False
    frames_first: bool = False

    def on(self, device: str) -> PaddedBatch:
        lengths = (torch.tensor(sizes, dtype=torch.int64).to(device) for sizes in (self.tokens, self.frames))
        initial = None if self.initial is None else self.initial.to(device)
        energies = self.turned(self.energies).to(device)
        return PaddedBatch(energies, *lengths, initial, self.keep, self.before, self.frames_first)

    def turned(self, tensor: torch.Tensor) -> torch.Tensor:
        """[N, S, T] as it lies on the device, or back."""
        return (tensor.transpose(1, 2) if self.frames_first else tensor).contiguous()

    def item(self, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies and initial attention in float64."""
        S, T = self.tokens[n], self.frames[n]
        initial = None if self.initial is None else self.initial[n, :S].double().numpy()
        return self.energies[n, :S, :T].double().numpy(), initial

    def only(self, n: int) -> "Case":
        """An item alone, without its padding."""
        S, T = self.tokens[n], self.frames[n]
        initial = None if self.initial is None else self.initial[n : n + 1, :S].contiguous()
        return self._replace(energies=self.energies[n : n + 1, :S, :T], tokens=[S], frames=[T], initial=initial)


def made(
    rng: np.random.Generator,
    shapes: list[tuple[int, int]],
    dtype: DType = DType.FLOAT32,
    *,
    mean: float = 0.0,
    certain: float = 0.0,
    given: bool = False,
    padding: int = 1,
    **options: bool,
) -> Case:
    """Random energies of items of so many tokens and frames, a share of them `certain`."""
    S, T = (max(sizes, default=0) + padding for sizes in zip(*shapes)) if shapes else (3, 4)
    values = rng.standard_normal((len(shapes), S, T)) * 2 + mean
    values = np.where(rng.random(values.shape) < certain, rng.choice([np.inf, -np.inf, 100.0, -100.0]), values)
    initial = torch.from_numpy(rng.random((len(shapes), S))) if given else None
    for n, (tokens, frames) in enumerate(shapes):
        values[n, tokens:] = np.nan
        values[n, :, frames:] = np.nan
        if initial is not None:
            initial[n, tokens:] = np.nan
    if initial is not None:
        initial = initial.to(torch.float64 if dtype is DType.FLOAT64 else torch.float32)
    tokens, frames = [tokens for tokens, _ in shapes], [frames for _, frames in shapes]
    return Case(dtype, torch.from_numpy(values).to(TYPES[dtype]), tokens, frames, initial, **options)


@st.composite
def cases(draw: st.DrawFn, max_tokens: int = 5, max_frames: int = 8) -> Case:
    sizes = st.tuples(st.integers(0, max_tokens), st.integers(0, max_frames))
    options = {name: draw(st.booleans()) for name in ("given", "keep", "before", "frames_first")}
    shapes = draw(st.lists(sizes, min_size=1, max_size=2))
    padding = draw(st.integers(0, 1))
    return made(draw(GENERATORS), shapes, draw(st.sampled_from(DType)), certain=0.1, padding=padding, **options)


def results(case: Case, device: str, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Alpha, and the derivatives by the energies and by what it starts as, on the host, as [N, S, T] and [N, S]."""
    batch = case.on(device)
    alpha = gpu.forward(batch)
    assert alpha.shape == batch.energies.shape
    slopes, by_initial = gpu.backward(batch, alpha, case.turned(upstream).to(device))
    assert alpha.dtype == slopes.dtype == upstream.dtype
    assert (by_initial is None) == (case.initial is None)
    return case.turned(alpha).cpu(), case.turned(slopes).cpu(), None if by_initial is None else by_initial.cpu()


def expected(case: Case, n: int, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of an item, by the reference. What starts before frame 0 starts in the first of one frame more."""
    energies, initial = case.item(n)
    end = "keep" if case.keep else "leak"
    if case.before and energies.shape[1] > 0:
        energies, upstream = (np.insert(array, 0, 0.0, 1) for array in (energies, upstream))
    alpha = reference.expectation(energies, end, "paper", initial)
    slopes, by_initial = reference.gradient(energies, upstream, end, "paper", initial)
    skipped = int(case.before)
    return alpha[:, skipped:], slopes[:, skipped:], by_initial


def tolerances(case: Case, n: int, upstream: np.ndarray) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Of alpha, as `gpu` states it: 7 ulp a frame, and what is below the normal numbers. Of slopes: alpha is off by
    that, so is G, by its terms' magnitudes; then 10 ulp of p · (1 − p), and four roundings. Twice that in float64, in
    which the reference is rounded too."""
    energies, initial = case.item(n)
    end = "keep" if case.keep else "leak"
    if case.before:
        energies, upstream = (np.insert(array, 0, 0.0, 1) for array in (energies, upstream))
    (S, T), ulp, tiny = energies.shape, ULP[case.dtype], TINY[case.dtype]
    times = 2 if case.dtype is DType.FLOAT64 else 1
    alpha = reference.expectation(energies, end, "paper", initial)
    earlier = np.concatenate((np.zeros((S, 1)), alpha[:, :-1]), 1) if T else alpha
    with np.errstate(over="ignore"):
        stay, move = 1 / (1 + np.exp(-energies)), 1 / (1 + np.exp(energies))
    terms = majorant(energies, upstream, end)
    slopes = times * (14 * T + 16) * ulp * earlier * stay * move * terms + 2 * (T + 1) * tiny * (
        terms.max(initial=0) + 1
    )
    start = times * 7 * (T + 1) * ulp * terms[:, 0] + T * tiny if T else np.zeros(S)
    return {"rtol": times * 7 * (T + 1) * ulp, "atol": (T + 1) * tiny}, slopes[:, int(case.before) :], start


def check(case: Case, device: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Everything is the reference's, within `tolerances`, and 0 beyond lengths, whatever is there."""
    kind = torch.float64 if case.dtype is DType.FLOAT64 else torch.float32
    upstream = torch.full(case.energies.shape, torch.nan, dtype=kind)
    rng = np.random.default_rng(seed)
    for n, (S, T) in enumerate(zip(case.tokens, case.frames)):
        upstream[n, :S, :T] = torch.from_numpy(rng.standard_normal((S, T)))
    alpha, slopes, by_initial = results(case, device, upstream)
    beyond = torch.ones(alpha.shape, dtype=torch.bool)
    for n, (S, T) in enumerate(zip(case.tokens, case.frames)):
        up = upstream[n, :S, :T].double().numpy()
        of_alpha, of_slopes, of_start = tolerances(case, n, up)
        wanted, wanted_slopes, wanted_start = expected(case, n, up)
        context = f"item {n}, {S} tokens, {T} frames, {case[0]}, {case[4:]}"
        np.testing.assert_allclose(alpha[n, :S, :T].numpy(), wanted, **of_alpha, err_msg=context)
        off = np.abs(slopes[n, :S, :T].double().numpy() - wanted_slopes)
        assert (off <= of_slopes).all(), context
        if by_initial is not None:
            if T > 0:
                assert (np.abs(by_initial[n, :S].double().numpy() - wanted_start) <= of_start).all(), context
            assert not by_initial[n, S if T > 0 else 0 :].any(), context
        beyond[n, :S, :T] = False
    assert not alpha[beyond].any()
    assert not slopes[beyond].any()
    return alpha, slopes, by_initial


@on_each_device
@FEW
@given(case=cases())
def test_equals_the_reference(device: str, case: Case) -> None:
    check(case, device)


@on_each_device
@LAYOUTS
def test_shapes_at_the_edges_of_strips_and_steps(device: str, frames_first: bool) -> None:
    """All tokens have mass from the start."""
    rng = np.random.default_rng(1)
    shapes = (
        [(32, 1), (33, 9), (31, 2), (65, 1)]
        if device == "cpu"
        else [(s, t) for s in (31, 32, 63, 64, 65) for t in (1, 33)]
    )
    check(made(rng, shapes, given=True, keep=False, before=frames_first, frames_first=frames_first), device)


@on_each_device
@pytest.mark.parametrize("before", [False, True])
def test_mass_that_passes_from_strip_to_strip(device: str, before: bool) -> None:
    """It moves on in most of the frames: the last tokens have some at the end, and get all gradients from there."""
    shapes = [(34, 39), (32, 7)] if device == "cpu" else [(65, 99), (100, 130), (33, 700), (70, 40)]
    alpha, *_ = check(made(np.random.default_rng(2), shapes, mean=-3.0, before=before), device)
    assert alpha[0, shapes[0][0] - 1].max() > 0.01


@on_each_device
def test_more_tokens_than_frames(device: str) -> None:
    check(made(np.random.default_rng(3), [(70, 5), (65, 12)], mean=-3.0, frames_first=True), device)


@on_each_device
@LAYOUTS
@pytest.mark.parametrize("dtype", DType)
def test_all_types_in_whole_steps(
    device: str, dtype: DType, frames_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    check(made(np.random.default_rng(4), [(3, 17)], dtype, certain=0.1, keep=False, frames_first=frames_first), device)


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_chances_to_full_precision(device: str, dtype: DType) -> None:
    """The larger one within 4 ulp, the smaller one within 6, and 0 below the normal numbers."""
    last = 87.0 if dtype is DType.FLOAT32 else 708.0
    magnitudes = np.array([0.0, 1e-6, 0.3, 0.34657, 0.35, 1.0, 5.5, 17.0, 40.0, last, last + 3, 1e4, 3e38, np.inf])
    energies = np.concatenate([-magnitudes, magnitudes])
    case = made(np.random.default_rng(0), [(32, 1), (32, 1)], dtype, given=True, keep=False, before=True, padding=0)
    case.energies[:, ::2, 0] = torch.from_numpy(np.resize(energies, 32)).view(2, 16)
    case.initial[:] = 0
    case.initial[:, ::2] = 1
    alpha = case.turned(gpu.forward(case.on(device)))[..., 0].double().cpu().numpy()
    used = case.energies[:, ::2, 0].double().numpy()
    likelier, other = 1 / (1 + np.exp(-np.abs(used))), np.exp(-np.abs(used)) / (1 + np.exp(-np.abs(used)))
    stay, move = np.where(used > 0, likelier, other), np.where(used > 0, other, likelier)
    for found, wanted in ((alpha[:, ::2], stay), (alpha[:, 1::2], move)):
        close = np.abs(found - wanted) <= np.where(wanted >= 0.5, 4, 6) * ULP[dtype] * wanted * (1 + 2.0**-20)
        assert (close | ((found == 0) & (wanted < 2 * TINY[dtype]))).all()


@on_each_device
@LAYOUTS
def test_a_batch_equals_its_items_alone(device: str, frames_first: bool) -> None:
    case = made(np.random.default_rng(5), [(33, 9), (2, 3)], given=True, frames_first=frames_first)
    upstream = torch.from_numpy(np.random.default_rng(6).standard_normal(case.energies.shape)).float()
    alpha, slopes, by_initial = results(case, device, upstream)
    for n, (S, T) in enumerate(zip(case.tokens, case.frames)):
        one, one_slopes, one_initial = results(case.only(n), device, upstream[n : n + 1, :S, :T])
        assert torch.equal(one[0], alpha[n, :S, :T])
        assert torch.equal(one_slopes[0], slopes[n, :S, :T])
        assert torch.equal(one_initial[0], by_initial[n, :S])


@on_each_device
def test_mass_that_halves_is_exact(device: str) -> None:
    case = Case(DType.FLOAT32, torch.zeros(1, 1, 24), [1], [24], keep=False)
    alpha = gpu.forward(case.on(device)).cpu()
    assert torch.equal(alpha[0, 0], torch.ldexp(torch.ones(24), -torch.arange(24)))


@on_each_device
def test_certain_choices_have_no_nan(device: str) -> None:
    values = [-torch.inf, -1e30, 90.0, torch.inf]
    energies = torch.tensor(values)[:, None, None].expand(4, 4, 7)
    case = Case(DType.FLOAT32, energies, [4] * 4, [7] * 4)
    upstream = torch.randn(4, 4, 7, generator=torch.Generator().manual_seed(0))
    alpha, slopes, _ = results(case, device, upstream)
    for n, value in enumerate(values):
        at = torch.zeros(7).long() if value > 0 else torch.arange(7).clamp(max=3)
        assert torch.equal(alpha[n], torch.nn.functional.one_hot(at, 4).T.float())
    assert slopes.isfinite().all()


@on_each_device
def test_nan_stays_in_its_item_and_goes_where_its_mass_goes(device: str) -> None:
    case = made(np.random.default_rng(7), [(6, 8), (6, 8)], padding=0)
    upstream = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    good = results(case, device, upstream)
    spoiled_energies = case.energies.clone()
    spoiled_energies[1, 2, 6] = torch.nan
    alpha, slopes, _ = results(case._replace(energies=spoiled_energies), device, upstream)
    assert torch.equal(alpha[0], good[0][0])
    assert torch.equal(slopes[0], good[1][0])
    assert torch.equal(alpha[1, :, :6], good[0][1, :, :6])
    assert torch.equal(alpha[1, :2], good[0][1, :2])
    assert alpha[1, 2:4, 6].isnan().all()
    assert slopes[1].isnan().any()


@on_each_device
@pytest.mark.parametrize("before", [False, True])
def test_energies_by_which_nothing_is_chosen_are_not_looked_at(device: str, before: bool) -> None:
    case = made(np.random.default_rng(8), [(6, 9)], padding=0, before=before)
    upstream = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    spoiled, spoiled_upstream = case.energies.clone(), upstream.clone()
    for t in range(9):
        spoiled[0, t + before :, t] = torch.nan  # no mass can have come there
        spoiled_upstream[0, t + before + 1 :, t] = torch.nan
    spoiled[:, -1] = torch.nan  # the last token keeps its mass
    found = results(case._replace(energies=spoiled), device, spoiled_upstream)
    wanted = results(case, device, upstream)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@on_each_device
def test_nan_that_it_starts_as_stays_in_frame_0(device: str) -> None:
    case = made(np.random.default_rng(9), [(5, 2)], given=True, padding=0)
    case.initial[0, 1] = torch.nan
    case.energies[0, 1, 1] = 200.0
    alpha = gpu.forward(case.on(device)).cpu()
    assert alpha[0, :, 0].isnan().tolist() == [False, True, False, False, False]
    wanted = reference.expectation(case.item(0)[0], "keep", "paper", case.item(0)[1])
    assert alpha[0].isnan().tolist() == np.isnan(wanted).tolist()


@on_each_device
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_batches_of_nothing(device: str, shape: tuple[int, int, int]) -> None:
    N, S, T = shape
    case = Case(DType.FLOAT32, torch.zeros(shape), [S] * N, [T] * N, initial=torch.ones(N, S))
    alpha, slopes, by_initial = results(case, device, torch.zeros(shape))
    assert alpha.shape == slopes.shape == shape
    assert torch.equal(by_initial, torch.zeros(N, S))
    paths, statuses = gpu.hard(case.on(device))
    assert torch.equal(paths.cpu(), torch.zeros(N, T, dtype=torch.int32))
    assert statuses.tolist() == [Status.OK] * N


@on_each_device
def test_lengths_beyond_the_tensor_give_nan(device: str) -> None:
    case = made(np.random.default_rng(10), [(3, 5)] * 5, given=True, padding=0)
    wrong = case._replace(tokens=[4, 3, 3, 3, -1], frames=[5, 6, 5, -1, 5])
    upstream = torch.ones(5, 3, 5)
    alpha, slopes, by_initial = results(wrong, device, upstream)
    for found, wanted in zip((alpha, slopes, by_initial), results(case.only(2), device, upstream[2:3])):
        assert found[[0, 1, 3, 4]].isnan().all()
        assert torch.equal(found[2], wanted[0])
    assert gpu.hard(wrong.on(device))[1].tolist() == [Status.INTERNAL] * 2 + [Status.OK] + [Status.INTERNAL] * 2


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_a_border_that_never_comes_is_nan_in_its_item_alone(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    case = made(np.random.default_rng(11), [(2, 4), (34, 4)], dtype, given=True, padding=0)
    upstream = torch.ones(case.energies.shape, dtype=case.initial.dtype)
    good = results(case, "cpu", upstream)
    monkeypatch.setattr(gpu, "PATIENCE", 3)
    for module, last in ((gpu_forward, 32), (gpu_backward, 31)):  # what waits for the border
        with monkeypatch.context() as patch:
            patch.setattr(module, "hand_over", lambda *_: None)
            found = results(case, "cpu", upstream)
        for one, wanted in zip(found, good):
            assert torch.equal(one[0], wanted[0])
        alpha, slopes, by_initial = (one[1] for one in found)
        assert slopes[last].isnan().any()
        if module is gpu_forward:
            assert alpha[last, 1:].isnan().all()
            assert torch.equal(alpha[:last], good[0][1, :last])
        else:
            assert by_initial[last].isnan()


@pytest.mark.interpreter
def test_one_launch_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ("stepwise_forward_kernel", "stepwise_backward_kernel", "stepwise_hard_kernel")
    launches = [Launches(getattr(gpu, name), really=False) for name in kernels]
    for name, launch in zip(kernels, launches):
        monkeypatch.setattr(gpu, name, launch)
    batch = made(np.random.default_rng(0), [(200, 900)] * 7, padding=0).on("cpu")
    gpu.backward(batch, gpu.forward(batch), torch.zeros(7, 200, 900))
    gpu.hard(batch)
    assert [launch.grids for launch in launches] == [[(7 * 7,)], [(7 * 7,)], [(7,)]]
    # What is not launched draws no tickets, which the next launch would wait for.
    monkeypatch.undo()
    from alignd_kernels import gpu_borders

    gpu_borders._kept.cache_clear()


def check_hard(case: Case, device: str) -> None:
    paths, statuses = gpu.hard(case.on(device))
    assert paths.dtype == torch.int32
    for n, (S, T) in enumerate(zip(case.tokens, case.frames)):
        assert not paths[n, T if S else 0 :].any()
        energies, _ = case.item(n)
        if S:
            try:
                np.testing.assert_array_equal(paths[n, :T].cpu(), reference.hard(energies))
            except ValueError:
                assert statuses[n] == Status.NOT_FINITE
                continue
        assert statuses[n] == Status.OK


@on_each_device
@FEW
@given(case=cases(max_tokens=4, max_frames=20))
def test_hard_choices_are_the_references(device: str, case: Case) -> None:
    check_hard(case, device)


@on_each_device
@LAYOUTS
@pytest.mark.parametrize("mean", [-6.0, -1.0])
def test_hard_choices_of_longer_items(device: str, frames_first: bool, mean: float) -> None:
    shapes = [(70, 67), (33, 33), (64, 31)] if device == "cpu" else [(300, 1000), (33, 33), (64, 64), (1000, 999)]
    check_hard(made(np.random.default_rng(12), shapes, mean=mean, frames_first=frames_first), device)


@on_each_device
def test_hard_choices_tell_of_nan_that_decides(device: str) -> None:
    energies = torch.ones(4, 3, 40)
    energies[1, 0, 36] = torch.nan
    energies[2, 1, 36] = torch.nan  # never come to
    energies[3, 0, 0] = torch.nan  # no choice
    assert gpu.hard(Case(DType.FLOAT32, energies, [3] * 4, [40] * 4).on(device))[1].tolist() == [
        *(Status.OK, Status.NOT_FINITE, Status.OK, Status.OK),
    ]


HEADS = torch.Generator().manual_seed(0)
ENERGIES = torch.randn(2, 2, 4, 7, generator=HEADS)
INITIAL = torch.rand(2, 2, 4, generator=HEADS)
LENGTHS = torch.tensor([4, 2]), torch.tensor([7, 5])


def asked(energies: torch.Tensor, initial: torch.Tensor | None, **options: Any) -> tuple[torch.Tensor, ...]:
    """Expectation and gradients of what users call, on the host."""
    energies = energies.detach().requires_grad_()
    initial = None if initial is None else initial.detach().requires_grad_()
    alpha = ak.stepwise_expectation(energies, initial=initial, **options)
    weights = torch.randn(alpha.shape, generator=torch.Generator().manual_seed(1)).to(alpha)
    (alpha * weights).sum().backward()
    assert energies.grad.dtype == energies.dtype
    assert energies.grad.device == alpha.device == energies.device
    return alpha.detach().cpu(), energies.grad.cpu(), *(() if initial is None else (initial.grad.cpu(),))


def agree(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...], dtype: DType = DType.FLOAT32) -> None:
    """Both are off by less than 7 ulp a frame, in gradients of terms below 10; and half an ulp of the halves."""
    share, least = ROUNDING.get(dtype, (0.0, 0.0))
    for one, other in zip(found, wanted, strict=True):
        ulps = 10 * (7 + 5) * (7 + 2) * ULP[dtype]
        torch.testing.assert_close(one, other, rtol=ulps + 2 * share, atol=ulps + least)


CALLS: list[dict[str, Any]] = [
    {},
    {"end": "leak", "frame_lengths": LENGTHS[1]},
    {"form": "sma", "token_lengths": LENGTHS[0], "frame_lengths": LENGTHS[1]},
    {"form": "sma", "end": "keep", "frame_lengths": [7, 5]},
]


@pytest.mark.interpreter
@pytest.mark.parametrize("options", CALLS)
def test_the_public_function_interpreted(options: dict[str, Any], device_of_public_functions: None) -> None:
    found = asked(ENERGIES, INITIAL, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograd, "kernels", lambda energies: cpu_tensors)
        wanted = asked(ENERGIES, INITIAL, **options)
    agree(found, wanted)


@on_each_device
def test_lengths_of_any_strides(device: str) -> None:
    """Heads of one item share its lengths: views of stride 0."""
    case = made(np.random.default_rng(15), [(2, 3), (2, 3)], padding=1)
    batch = case.on(device)
    spaced = torch.tensor([3, 99, 3, 99], device=device)[::2]
    strided = dataclasses.replace(batch, tokens=batch.tokens[:1].expand(2), frames=spaced)
    alpha = gpu.forward(batch)
    assert torch.equal(gpu.forward(strided), alpha)
    assert torch.equal(gpu.backward(strided, alpha, alpha)[0], gpu.backward(batch, alpha, alpha)[0])
    assert torch.equal(gpu.hard(strided)[0], gpu.hard(batch)[0])


@pytest.mark.interpreter
def test_layouts_and_noise_interpreted(device_of_public_functions: None) -> None:
    base = torch.randn(1, 4, 14, 5, generator=torch.Generator().manual_seed(2))
    view = base[:, ::2, ::2, :4]  # of neither layout
    turned = view.transpose(-1, -2).contiguous().transpose(-1, -2)
    wanted = ak.stepwise_expectation(view.contiguous())
    assert torch.equal(ak.stepwise_expectation(view), wanted)
    found = ak.stepwise_expectation(turned)
    assert torch.equal(found, wanted)
    assert found.stride()[-2:] == turned.stride()[-2:] == (1, 7)
    quiet, noisy, again = (
        ak.stepwise_expectation(ENERGIES[0, :1], noise_std=std, generator=torch.Generator().manual_seed(3))
        for std in (0.0, 0.5, 0.5)
    )
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, quiet)


@pytest.mark.interpreter
@pytest.mark.parametrize("form", ["paper", "sma"])
@pytest.mark.parametrize("end", ["keep", "leak"])
def test_gradcheck_interpreted(form: Any, end: Any, device_of_public_functions: None) -> None:
    """By central differences, along a direction of all energies and initial probabilities."""
    energies = torch.randn(1, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    initial = torch.rand(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    lengths = torch.tensor([3]), torch.tensor([5])

    def function(x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return ak.stepwise_expectation(x, *lengths, form=form, end=end, initial=start)

    assert torch.autograd.gradcheck(function, (energies, initial), fast_mode=True)


@pytest.mark.interpreter
def test_lengths_that_lie_on_the_device_interpreted(device_of_public_functions: None) -> None:
    beyond = torch.tensor([7, 8])
    energies, initial = ENERGIES[:, :1], INITIAL[:, :1]
    found = asked(energies, initial, frame_lengths=beyond)
    wanted = asked(energies, initial)
    for one, other in zip(found, wanted):
        assert torch.equal(one[0], other[0])
        assert one[1].isnan().all()
    found = asked(energies, None, form="sma", frame_lengths=beyond)
    assert not found[0][0].isnan().any()
    assert found[0][1].isnan().all()
    assert found[1][1].isnan().all()
    with pytest.raises(ValueError, match=r"frame_lengths\[1\] is 8; it must be from 0 to 7"):
        ak.stepwise_expectation(ENERGIES, frame_lengths=beyond.tolist())
    with pytest.raises(ValueError, match=r"frame_lengths\[1\] is 8; it must be from 0 to 7"):
        ak.stepwise_hard(ENERGIES, frame_lengths=beyond)
    with pytest.raises(TypeError, match="token_lengths must be integers"):
        ak.stepwise_hard(ENERGIES, token_lengths=torch.tensor([1.0, 2.0]))


def check_hard_function(energies: torch.Tensor) -> None:
    """Of energies [2, 2, 4, 7] on any device."""
    paths = ak.stepwise_hard(energies, *LENGTHS)
    one_hot = ak.stepwise_hard(energies, *LENGTHS, one_hot=True)
    assert paths.device == one_hot.device == energies.device
    assert one_hot.dtype == energies.dtype
    for b, (S, T) in enumerate(zip(*(sizes.tolist() for sizes in LENGTHS))):
        for h in range(2):
            wanted = reference.hard(energies[b, h, :S, :T].double().cpu().numpy())
            np.testing.assert_array_equal(paths[b, h, :T].cpu(), wanted)
            assert not paths[b, h, T:].any()
            attention = np.zeros((4, 7))
            attention[wanted, np.arange(T)] = 1
            np.testing.assert_array_equal(one_hot[b, h].float().cpu(), attention)
    spoiled = energies.clone()
    spoiled[1, 0, 0, 1] = torch.nan
    with pytest.raises(ak.InvalidItemsError, match="NaN") as caught:
        ak.stepwise_hard(spoiled)
    assert caught.value.statuses == {2: Status.NOT_FINITE}


@pytest.mark.interpreter
def test_the_hard_function_interpreted(device_of_public_functions: None) -> None:
    check_hard_function(ENERGIES)


def test_hard_paths_of_items_without_tokens_are_0_on_the_cpu() -> None:
    energies = -torch.ones(2, 2, 9)
    paths = ak.stepwise_hard(energies, token_lengths=[0, 2])
    assert paths.tolist() == [[0] * 9, [0] + [1] * 8]


def layer(**options: Any) -> Any:
    torch.manual_seed(0)
    return ak.StepwiseMonotonicMultiheadAttention(6, 3, 3, n_head=2, is_tunable=True, dropout=0.0, **options)


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, length, 6, generator=generator) for length in (4, 7, 7))
    query_mask = torch.arange(4)[None, :, None] >= LENGTHS[0][:, None, None]
    return {"q": q, "k": k, "v": v, "mel_len": LENGTHS[1], "query_mask": query_mask}


def trained(made: Any, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Context, attention and the gradients of all parameters, on the host."""
    context, attention, rate = made.eval()(**given)
    assert context.device == attention.device == given["q"].device
    assert isinstance(rate, float)
    context.square().sum().backward()
    return tuple(x.detach().cpu() for x in (context, attention, *(one.grad for one in made.parameters())))


MODULES = pytest.mark.parametrize("options", [{}, {"form": "paper", "attention": "monotonic"}])


@pytest.mark.interpreter
@MODULES
def test_the_module_interpreted(options: dict[str, Any], device_of_public_functions: None) -> None:
    found = trained(layer(**options), inputs())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograd, "kernels", lambda energies: cpu_tensors)
        wanted = trained(layer(**options), inputs())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.interpreter
def test_hard_choices_of_the_module_interpreted(device_of_public_functions: None) -> None:
    made = layer(form="paper", hard=True, attention="monotonic").eval()
    shown = made(**inputs())[1]
    assert set(shown.unique().tolist()) == {0.0, 1.0}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("options", CALLS)
def test_the_public_function_on_a_gpu(dtype: DType, options: dict[str, Any]) -> None:
    energies = ENERGIES.to(TYPES[dtype])
    initial = INITIAL.double() if dtype is DType.FLOAT64 else INITIAL
    wanted = asked(energies, initial, **options)
    agree(asked(energies.cuda(), initial.cuda(), **options), wanted, dtype)
    there = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    turned = energies.cuda().transpose(-1, -2).contiguous().transpose(-1, -2)
    agree(asked(turned, initial.cuda(), **there), wanted, dtype)


@pytest.mark.gpu
def test_noise_from_a_generator_on_the_gpu() -> None:
    energies = ENERGIES.cuda()
    quiet, noisy, again = (
        ak.stepwise_expectation(energies, noise_std=std, generator=torch.Generator("cuda").manual_seed(3))
        for std in (0.0, 0.5, 0.5)
    )
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, quiet)


@pytest.mark.gpu
def test_lengths_out_of_range_on_the_gpu() -> None:
    beyond = torch.tensor([7, 8], device="cuda")
    alpha = ak.stepwise_expectation(ENERGIES.cuda(), frame_lengths=beyond)
    assert alpha[0].isfinite().all()
    assert alpha[1].isnan().all()
    with pytest.raises(ValueError, match=r"frame_lengths\[1\] is 8; it must be from 0 to 7"):
        ak.stepwise_hard(ENERGIES.cuda(), frame_lengths=beyond)


@pytest.mark.gpu
def test_focus_rates_with_lengths_on_the_gpu() -> None:
    attention = torch.rand(2, 2, 4, 7)
    found = ak.focus_rate(attention.cuda(), *(sizes.cuda() for sizes in LENGTHS))
    torch.testing.assert_close(found.cpu(), ak.focus_rate(attention, *LENGTHS))


@pytest.mark.gpu
def test_the_hard_function_on_a_gpu() -> None:
    check_hard_function(ENERGIES.cuda())
    check_hard_function(ENERGIES.cuda().transpose(-1, -2).contiguous().transpose(-1, -2))


@pytest.mark.gpu
@MODULES
def test_the_module_on_a_gpu(options: dict[str, Any]) -> None:
    wanted = trained(layer(**options), inputs())
    found = trained(layer(**options).cuda(), {name: value.cuda() for name, value in inputs().items()})
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # matrix products, in another order


@pytest.mark.gpu
def test_hard_choices_of_the_module_on_a_gpu() -> None:
    made = layer(form="paper", hard=True, attention="monotonic").eval().cuda()
    shown = made(**{name: value.cuda() for name, value in inputs().items()})[1]
    assert set(shown.unique().tolist()) == {0.0, 1.0}


@pytest.mark.gpu
@LAYOUTS
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType, frames_first: bool) -> None:
    shapes = [(150, 2000), (700, 3000), (1, 4000), (33, 1)]
    case = made(np.random.default_rng(13), shapes, dtype, mean=-1.0, keep=False, frames_first=frames_first)
    kind = torch.float64 if dtype is DType.FLOAT64 else torch.float32
    upstream = torch.randn(case.energies.shape, generator=torch.Generator().manual_seed(0), dtype=kind)
    alpha, slopes, _ = results(case, "cuda", upstream)
    lengths = np.array(case.tokens), np.array(case.frames)
    batch = PaddedBatch(case.turned(case.energies), *lengths, keep=False, frames_first=frames_first)
    wanted = cpu_tensors.forward(batch)
    wanted_slopes = case.turned(cpu_tensors.backward(batch, wanted, case.turned(upstream))[0]).double().numpy()
    wanted = case.turned(wanted)
    for n, (S, T) in enumerate(shapes):
        # The CPU's are off by 5 ulp where these are by 7.
        share, tiny = (12 * T + 16) * ULP[dtype], TINY[dtype]
        torch.testing.assert_close(alpha[n, :S, :T], wanted[n, :S, :T], rtol=share, atol=2 * (T + 1) * tiny)
        energies, _ = case.item(n)
        terms = majorant(energies, upstream[n, :S, :T].double().numpy(), "leak")
        earlier = np.concatenate((np.zeros((S, 1)), wanted[n, :S, : T - 1].double().numpy()), 1)
        stay, move = 1 / (1 + np.exp(-energies)), 1 / (1 + np.exp(energies))
        most = 2 * share * earlier * stay * move * terms + 4 * (T + 1) * tiny * (terms.max() + 1)
        off = np.abs(slopes[n, :S, :T].double().numpy() - wanted_slopes[n, :S, :T])
        assert (off <= most).all(), (S, T)
    wide = Case(dtype, case.energies[:2, :, :2000].contiguous(), [150, 700], [2000, 2000], frames_first=frames_first)
    check_hard(wide, "cuda")


@pytest.mark.gpu
def test_repeats_give_the_same_bits() -> None:
    case = made(np.random.default_rng(14), [(300, 900), (64, 500), (33, 1200)], mean=-1.0)
    upstream = torch.randn(case.energies.shape, generator=torch.Generator().manual_seed(0))
    first = results(case, "cuda", upstream)
    for _ in range(200):
        again = results(case, "cuda", upstream)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    energies = torch.randn(8, 4, 100, 500, device="cuda", requires_grad=True)
    initial = torch.rand(8, 4, 100, device="cuda", requires_grad=True)
    lengths = [torch.full((8,), n, device="cuda") for n in (100, 500)]

    def both() -> torch.Tensor:
        total = torch.zeros((), device="cuda")
        for form in ("paper", "sma"):
            alpha = ak.stepwise_expectation(energies, *lengths, form=form, initial=initial, noise_std=0.1)
            total = total + alpha.square().sum()
        total.backward()
        return total.detach()

    both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.isfinite()


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """The last item begins past 2³¹ elements."""
    energies = torch.randn(1, 64, 1 << 20, device="cuda", dtype=torch.float16).expand(34, -1, -1).contiguous()
    lengths = torch.full((34,), 64, device="cuda"), torch.full((34,), 1 << 20, device="cuda")
    batch = PaddedBatch(energies, *lengths, keep=False)
    alpha = gpu.forward(batch)
    assert torch.equal(alpha[0], alpha[-1])
    slopes, _ = gpu.backward(batch, alpha, torch.ones_like(alpha))
    assert torch.equal(slopes[0], slopes[-1])
    paths, _ = gpu.hard(batch)
    assert torch.equal(paths[0], paths[-1])
