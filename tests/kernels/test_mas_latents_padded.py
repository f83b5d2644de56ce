"""`maximum_path_from_latents` on the CPU, on a GPU's tensors, and there with the Triton kernels interpreted."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS

import alignd_kernels as ak
from alignd_kernels.mas import reference
from alignd_kernels.mas.latents import reference_lattice

torch = pytest.importorskip("torch")

TOKENS, FRAMES, C = [4, 3, 1], [9, 5, 7], 6
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def gaussians(rng: np.random.Generator, B: int, S: int, T: int, channels: int = C) -> tuple[np.ndarray, ...]:
    """Small numbers on a grid, so that distances are exact in every type; deviations of 1, ½ and 2."""
    z, mean = (rng.integers(-8, 9, (B, n, channels)) / 8 for n in (T, S))
    return z, mean, rng.integers(-1, 2, (B, S, channels)) * np.log(2)


def expected_path(
    z: np.ndarray, mean: np.ndarray, log_sigma: np.ndarray | None, frames: list[int], tokens: list[int]
) -> np.ndarray:
    path = np.zeros((len(z), mean.shape[1], z.shape[1]), np.float32)
    for b, (T, S) in enumerate(zip(frames, tokens)):
        lattice = reference_lattice(z[b, :T], mean[b, :S], None if log_sigma is None else log_sigma[b, :S])
        _, durations, _ = reference.maximum_path(lattice)
        path[b, np.repeat(np.arange(S), durations), np.arange(T)] = 1
    return path


@pytest.fixture
def given_arrays() -> list[np.ndarray]:
    return [array.astype(np.float32) for array in gaussians(np.random.default_rng(0), 3, 4, 9)]


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    GENERATORS,
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=5),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
)
def test_paths_are_the_references(
    rng: np.random.Generator, sizes: list[tuple[int, int]], dtype: Any, unit: bool
) -> None:
    """Beyond the lengths stands NaN, which nothing reads; grid values and deviations of 1 make every sum exact but for
    the constant that all cells share, so ties are the reference's too."""
    tokens, frames = [S for S, _ in sizes], [S + more for S, more in sizes]
    z, mean, log_sigma = gaussians(rng, len(sizes), max(tokens) + 1, max(frames) + 2)
    log_sigma[:] = 0
    for b, (S, T) in enumerate(zip(tokens, frames)):
        z[b, T:] = mean[b, S:] = log_sigma[b, S:] = np.nan
    given = (z.astype(dtype), mean.astype(dtype), None if unit else log_sigma.astype(dtype))
    path = ak.maximum_path_from_latents(*given, frames, np.array(tokens))
    assert path.dtype == np.float32
    squares = np.full((len(z), mean.shape[1], z.shape[1]), np.nan)
    for b, (S, T) in enumerate(zip(tokens, frames)):
        squares[b, :S, :T] = -0.5 * ((z[b, :T] - mean[b, :S, None]) ** 2).sum(2)
    mask = ~np.isnan(squares)
    np.testing.assert_array_equal(path, ak.maximum_path(squares, mask))


@pytest.mark.parametrize("dtype", TYPES)
def test_torch_of_every_type(given_arrays: list[np.ndarray], dtype: torch.dtype) -> None:
    tensors = [torch.from_numpy(array).to(dtype).requires_grad_() for array in given_arrays]
    path = ak.maximum_path_from_latents(*tensors, torch.tensor(FRAMES), torch.tensor(TOKENS))
    assert isinstance(path, torch.Tensor)
    assert path.dtype == torch.float32
    assert not path.requires_grad
    rounded = [tensor.detach().double().numpy() for tensor in tensors]
    np.testing.assert_array_equal(path.numpy(), expected_path(*rounded, FRAMES, TOKENS))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_numpy_of_every_type(given_arrays: list[np.ndarray], dtype: str) -> None:
    arrays = [array.astype(dtype) for array in given_arrays]
    path = ak.maximum_path_from_latents(*arrays, FRAMES, TOKENS)
    assert isinstance(path, np.ndarray)
    np.testing.assert_array_equal(path, expected_path(*(array.astype(float) for array in arrays), FRAMES, TOKENS))


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    turned = np.ascontiguousarray(array.transpose(0, 2, 1)).transpose(0, 2, 1)
    reversed_ = np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    strided = np.full((*array.shape[:2], 2 * array.shape[2]), np.nan, array.dtype)[:, :, ::2]
    strided[...] = array
    inside = np.full([n + 2 for n in array.shape], np.nan, array.dtype)[1:-1, 1:-1, 1:-1]
    inside[...] = array
    items_last = np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1)
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    return {
        "channels first": turned, "reversed": reversed_, "strided": strided, "inside": inside, "items last": items_last,
        "unaligned": raw, "read only": read_only,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "layout", ["channels first", "reversed", "strided", "inside", "items last", "unaligned", "read only"]
)
def test_layouts_and_the_callers_arrays_stay(given_arrays: list[np.ndarray], layout: str, dtype: str) -> None:
    arrays = [array.astype(dtype) for array in given_arrays]
    expected = ak.maximum_path_from_latents(*arrays, FRAMES, TOKENS)
    given = [layouts(array)[layout] for array in arrays]
    np.testing.assert_array_equal(ak.maximum_path_from_latents(*given, FRAMES, TOKENS), expected)
    for one, other in zip(given, arrays):
        np.testing.assert_array_equal(one, other)


def test_views_of_torch(given_arrays: list[np.ndarray]) -> None:
    """As VITS has them: channels first, one z expanded to several items."""
    expected = ak.maximum_path_from_latents(*given_arrays)
    tensors = [torch.from_numpy(array).transpose(1, 2).contiguous().transpose(1, 2) for array in given_arrays]
    np.testing.assert_array_equal(ak.maximum_path_from_latents(*tensors).numpy(), expected)
    first = [array[:1] for array in given_arrays]
    alone = ak.maximum_path_from_latents(*first)
    spread = [torch.from_numpy(array).expand(3, -1, -1) for array in first]
    assert torch.equal(ak.maximum_path_from_latents(*spread), torch.from_numpy(alone).expand(3, -1, -1))


def test_an_items_path_is_the_same_in_any_batch() -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((6, n, 40)).astype(np.float32) for n in (200, 70, 70)]
    whole = ak.maximum_path_from_latents(*arrays)
    for b in range(6):
        np.testing.assert_array_equal(
            ak.maximum_path_from_latents(*(array[b : b + 1] for array in arrays))[0], whole[b]
        )


def test_every_bad_item_is_listed() -> None:
    z, mean, log_sigma = (array.astype(np.float32) for array in gaussians(np.random.default_rng(1), 6, 4, 9))
    z[1, 3, 2], mean[2, 1, 0], log_sigma[5] = np.nan, np.inf, -np.inf
    lengths = [9, 9, 9, 3, 0, 9], [4, 4, 4, 4, 4, 4]
    with pytest.raises(ak.InvalidItemsError) as raised:
        ak.maximum_path_from_latents(z, mean, log_sigma, *lengths)
    statuses = raised.value.statuses
    assert statuses[1] is ak.Status.NOT_FINITE
    assert statuses[2] is ak.Status.NO_FINITE_PATH
    assert statuses[3] is ak.Status.TOO_FEW_FRAMES
    assert statuses[4] is ak.Status.EMPTY
    assert sorted(statuses) == [1, 2, 3, 4, 5]
    message = str(raised.value)
    assert "NaN in a latent, a mean or a log_sigma" in message
    assert "empty item (4 tokens, 0 frames, 6 channels)" in message
    assert "more tokens (4) than frames (3)" in message
    path, found = ak.maximum_path_from_latents(z, mean, log_sigma, *lengths, check=False)
    assert found.dtype == np.int32
    assert [index for index, status in enumerate(found) if status != ak.Status.OK] == [1, 2, 3, 4, 5]
    assert not path[1:].any()
    assert path[0].sum() == 9
    path, found = ak.maximum_path_from_latents(*map(torch.from_numpy, (z, mean, log_sigma)), *lengths, check=False)
    assert isinstance(found, torch.Tensor)


@pytest.mark.parametrize("shape", [(0, 4, 9, 6), (0, 0, 0, 0), (2, 0, 9, 6), (2, 4, 0, 6), (2, 4, 9, 0), (2, 0, 0, 0)])
def test_nothing_to_align(shape: tuple[int, int, int, int]) -> None:
    B, S, T, channels = shape
    z, mean = np.zeros((B, T, channels), np.float32), np.zeros((B, S, channels), np.float32)
    path, statuses = ak.maximum_path_from_latents(z, mean, check=False)
    assert path.shape == (B, S, T)
    assert statuses.tolist() == [ak.Status.EMPTY] * B
    assert not path.any()


def test_wrong_arguments(given_arrays: list[np.ndarray]) -> None:
    z, mean, log_sigma = given_arrays
    for arguments, words in (
        ((z[0], mean[0]), "must be [batch, frames, channels]"),
        ((z, mean[:, :, :5]), "VITS has channels first"),
        ((z, mean[:2]), "does not go with z's"),
        ((z, mean, log_sigma[:, :2]), "must have the shape of mean"),
        ((z, mean, None, [10, 9, 9]), "frame_lengths[0] is 10"),
        ((z, mean, None, None, [4, -1, 4]), "token_lengths[1] is -1"),
        ((z, mean, None, [9, 9]), "frame_lengths must be of shape (3,)"),
    ):
        with pytest.raises(ValueError, match=words.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")):
            ak.maximum_path_from_latents(*arguments)
    for arguments, words in (
        ((z, mean.astype(float)), "mean is float64, but z is float32"),
        ((z, mean, torch.from_numpy(log_sigma).bfloat16()), "log_sigma is bfloat16, but z is float32"),
        ((z.astype(int), mean.astype(int)), "not int64"),
        ((z, mean, None, [9.0, 9.0, 9.0]), "frame_lengths must be integers"),
    ):
        with pytest.raises(TypeError, match=words):
            ak.maximum_path_from_latents(*arguments)


def test_arguments_are_the_clients() -> None:
    """Users move between the two: the same names, in the same order."""
    import inspect

    from alignd_client import AlignClient

    ours = list(inspect.signature(ak.maximum_path_from_latents).parameters)
    theirs = list(inspect.signature(AlignClient.maximum_path_from_latents).parameters)
    assert ours == [*theirs[1:], "check"]


def test_numpy_callers_need_no_torch() -> None:
    code = (
        "import sys, numpy as np, alignd_kernels as ak\n"
        "ak.maximum_path_from_latents(np.zeros((1, 3, 2), np.float32), np.ones((1, 2, 2), np.float32))\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


SCRIPT = """
import numpy as np, torch, alignd_kernels as ak
from kernels.test_mas_latents_padded import FRAMES, TOKENS, bad_tensors, raised, tensors
from alignd_kernels.mas.gpu_latents_padded import maximum_path_from_latents_on_gpu as on_gpu

for dtype, unit in ((torch.float16, False), (torch.bfloat16, True), (torch.float32, True), (torch.float64, False)):
    z, mean, log_sigma = tensors(dtype)
    given = (z, mean, None if unit else log_sigma)
    expected = ak.maximum_path_from_latents(*given, FRAMES, TOKENS)
    found = on_gpu(*given, torch.tensor(FRAMES), TOKENS, True)
    assert found.dtype == torch.float32 and torch.equal(found, expected), (dtype, unit)
turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given]
assert torch.equal(on_gpu(*turned, FRAMES, TOKENS, True), expected)
far = [x + 1000 for x in tensors(torch.float32)[:2]]
expected = ak.maximum_path_from_latents(*tensors(torch.float32)[:2], None, FRAMES, TOKENS)
assert torch.equal(on_gpu(*far, None, FRAMES, TOKENS, True), expected)
path, statuses = on_gpu(*bad_tensors(), [9, 9, 9, 3, 0], None, False)
assert statuses.tolist()[:2] == [ak.Status.OK, ak.Status.NOT_FINITE], statuses
assert statuses.tolist()[3:] == [ak.Status.TOO_FEW_FRAMES, ak.Status.EMPTY], statuses
assert statuses[2] in (ak.Status.NOT_FINITE, ak.Status.NO_FINITE_PATH) and not path[1:].any()
message = raised(lambda: on_gpu(*bad_tensors(), [9, 9, 9, 3, 0], None, True))
assert "empty item (4 tokens, 0 frames, 6 channels)" in message and "more tokens (4) than frames (3)" in message
message = raised(lambda: on_gpu(z, mean, None, torch.tensor([9, 10, 9]), None, True))
assert "frame_lengths[1] is 10" in message, message
assert on_gpu(z, mean, None, torch.tensor([9, 10, 9]), None, False)[1].tolist()[1] == ak.Status.INTERNAL
for B, S, T, C in ((0, 4, 9, 6), (2, 0, 9, 6), (2, 4, 0, 6), (2, 4, 9, 0)):
    path, statuses = on_gpu(torch.zeros(B, T, C), torch.zeros(B, S, C), None, None, None, False)
    assert path.shape == (B, S, T) and statuses.tolist() == [ak.Status.EMPTY] * B, statuses
try:
    on_gpu(z.long(), mean.long(), None, None, None, True)
    raise AssertionError("integers were taken")
except TypeError as error:
    assert "not torch.int64" in str(error)
"""


def tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    """On a grid, NaN in the padding, deviations that all tokens share: no rounding decides between paths."""
    z, mean, log_sigma = gaussians(np.random.default_rng(3), 3, 4, 9)
    log_sigma[:] = log_sigma[:1, :1]
    for b, (T, S) in enumerate(zip(FRAMES, TOKENS)):
        z[b, T:] = mean[b, S:] = log_sigma[b, S:] = np.nan
    return [torch.from_numpy(array).to(dtype) for array in (z, mean, log_sigma)]


def bad_tensors() -> list[torch.Tensor]:
    z, mean, log_sigma = (torch.from_numpy(array) for array in gaussians(np.random.default_rng(1), 5, 4, 9))
    z[1, 3, 2], mean[2, 1, 0] = torch.nan, torch.inf
    return [z, mean, log_sigma]


def raised(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.interpreter
def test_interpreted_on_the_cpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_results_stay_on_the_gpu(dtype: torch.dtype, unit: bool) -> None:
    z, mean, log_sigma = tensors(dtype)
    given = [z, mean, *([] if unit else [log_sigma])]
    lengths = {"frame_lengths": torch.tensor(FRAMES), "token_lengths": torch.tensor(TOKENS)}
    expected = ak.maximum_path_from_latents(*given, **lengths)
    for moved in (lengths, {name: each.cuda() for name, each in lengths.items()}):
        path = ak.maximum_path_from_latents(*(each.cuda() for each in given), **moved)
        assert path.is_cuda
        assert torch.equal(path.cpu(), expected)


@pytest.mark.gpu
def test_arguments_on_different_devices_are_refused() -> None:
    z, mean, log_sigma = tensors(torch.float32)
    with pytest.raises(ValueError, match="log_sigma is on cpu, but z is on cuda"):
        ak.maximum_path_from_latents(z.cuda(), mean.cuda(), log_sigma)


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    z, mean = torch.randn(8, 800, 80, device="cuda"), torch.randn(8, 160, 80, device="cuda")
    lengths = [torch.full((8,), n, device="cuda") for n in (800, 160)]
    ak.maximum_path_from_latents(z, mean, mean, *lengths, check=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, statuses = ak.maximum_path_from_latents(z, mean, mean, *lengths, check=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (statuses == ak.Status.OK).all()


@pytest.mark.gpu
@pytest.mark.parametrize("loose", [False, True])
def test_paths_are_nearly_the_cpus_best_whatever_the_settings(loose: bool) -> None:
    """By their score on the float64 lattice: within the tolerance of the products, which TF32 would leave by far."""
    generator = torch.Generator().manual_seed(0)
    z, mean, log_sigma = (torch.randn(4, n, 192, generator=generator) for n in (800, 160, 160))
    log_sigma *= 0.3
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=loose):
        path = ak.maximum_path_from_latents(z.cuda(), mean.cuda(), log_sigma.cuda()).cpu().bool()
    z, mean, log_sigma = z.double(), mean.double(), log_sigma.double()
    inverse = torch.exp(-2 * log_sigma)
    squares = inverse @ (z * z).transpose(1, 2) + (inverse * mean * mean).sum(2, keepdim=True)
    constant = -log_sigma.sum(2, keepdim=True) - 0.5 * 192 * np.log(2 * np.pi)
    lattice = constant - 0.5 * squares + (mean * inverse) @ z.transpose(1, 2)
    best = ak.maximum_path(lattice, torch.ones_like(lattice)).bool()
    slack = 2 * (192 + 10) * 2.0**-24 * (squares.amax(1) + log_sigma.abs().sum(2).amax(1)[:, None] + 192).sum(1)
    search = 800 * 2.0**-24 * 2 * lattice.abs().amax(1).sum(1)
    assert ((lattice * best).sum((1, 2)) - (lattice * path).sum((1, 2)) <= slack + search).all()
