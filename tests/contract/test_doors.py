"""All doors answer alike: threads and asyncio, through a server and in process. The kernels' reference is the judge."""

import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

import alignd_kernels
from alignd_client import STAR, AlignClient, AlignError, InvalidItemError, InvalidItemsError, InvalidRequestError
from alignd_client.aio import AsyncAlignClient
from alignd_kernels.ctc.reference import forced_align as ctc_reference
from alignd_kernels.mas.reference import maximum_path as mas_reference
from alignd_kernels.transducer import reference as transducer_reference
from support.blocking import Blocking
from support.server_process import ServerProcess

DATA = Path(__file__).parents[1] / "data"
DOORS = ("threads, server", "asyncio, server", "threads, in process", "asyncio, in process")


@pytest.fixture(scope="module")
def doors() -> Iterator[dict[str, Any]]:
    with ServerProcess() as server:
        threads, local = AlignClient(server.target), AlignClient.in_process("cpu")
        wrapped = [Blocking(AsyncAlignClient(server.target)), Blocking(AsyncAlignClient.in_process("cpu"))]
        yield dict(zip(DOORS, (threads, wrapped[0], local, wrapped[1])))
        for client in (threads, local, *wrapped):
            client.close()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: dict[str, Any]) -> Any:
    return doors[request.param]


def plain(outcome: Any) -> Any:
    """Anything a door returns or raises, as values that `==` compares."""
    if isinstance(outcome, AlignError):
        details = {name: plain(value) for name, value in sorted(vars(outcome).items())}
        return (type(outcome).__name__, str(outcome), details)
    if isinstance(outcome, torch.Tensor):
        return ("torch", str(outcome.dtype), outcome.to(torch.float64).tolist())
    if isinstance(outcome, np.ndarray):
        return ("numpy", outcome.dtype.name, outcome.tolist())
    if is_dataclass(outcome):
        names = [field.name for field in fields(outcome)]
        names += [name for name, value in vars(type(outcome)).items() if isinstance(value, cached_property)]
        return {name: plain(getattr(outcome, name)) for name in names}
    if isinstance(outcome, (list, tuple)):
        return [plain(value) for value in outcome]
    if isinstance(outcome, float) and np.isnan(outcome):
        return "nan"
    if isinstance(outcome, dict):
        return {key: plain(value) for key, value in outcome.items()}
    return outcome


def outcome(client: Any, scenario: Callable[[Any], Any]) -> Any:
    try:
        found = scenario(client)
        return plain(list(found) if inspect.isgenerator(found) or isinstance(found, Iterator) else found)
    except AlignError as error:
        return plain(error)


def values(dtype: Any = np.float32, items: int = 40) -> list[Any]:
    rng = np.random.default_rng(7)
    sizes = [(int(s), int(s + t)) for s, t in zip(rng.integers(1, 40, items), rng.integers(0, 90, items))]
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def emissions(items: int = 30) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(8)
    frames, labels = rng.integers(30, 90, items), rng.integers(1, 14, items)
    log_probs = [np.log(rng.dirichlet(np.ones(9), int(T))).astype(np.float32) for T in frames]
    return log_probs, [rng.integers(1, 9, int(L)) for L in labels]


def broken_values() -> list[Any]:
    nan = np.zeros((2, 4), np.float32)
    nan[0, 1] = np.nan
    infinite = np.full((2, 4), -np.inf, np.float32)
    return [np.zeros((2, 4), np.float32), nan, np.zeros((5, 4), np.float32), np.zeros((0, 4), np.float32), infinite]


def padded(client: Any) -> Any:
    value = np.random.default_rng(9).standard_normal((3, 6, 20)).astype(np.float32)
    mask = np.zeros_like(value)
    for item, (tokens, frames) in enumerate(((6, 20), (2, 9), (4, 4))):
        mask[item, :tokens, :frames] = 1
    return client.maximum_path(value, mask)


def padded_with_bad_items(client: Any) -> Any:
    value = np.zeros((4, 3, 5), np.float32)
    mask = np.ones_like(value)
    mask[1, :, 2:] = 0  # 3 tokens, 2 frames
    mask[3] = 0
    return client.maximum_path(value, mask)


def ctc_padded(client: Any) -> Any:
    log_probs, _ = emissions(3)
    batch = np.zeros((3, 90, 9), np.float64)
    for item, x in enumerate(log_probs):
        batch[item, : len(x)] = x
    targets = np.array([[1, 2, 2], [3, 8, 0], [STAR, 4, 5]], np.int32)
    return client.forced_align(batch, targets, [len(x) for x in log_probs], [3, 2, 3], star_score="max")


def many_columns(dtype: Any = np.float32) -> tuple[list[Any], list[Any]]:
    """Emissions of which the columns of an item's own labels travel."""
    rng = np.random.default_rng(15)
    log_probs = [rng.standard_normal((int(T), 1000)).astype(dtype) for T in rng.integers(24, 40, 8)]
    targets = [rng.integers(8, 1000, int(L)) for L in rng.integers(1, 12, 8)]
    targets[1][:] = targets[1][0]
    targets[2] = np.array([3, 3, 999, 0, 3])
    return log_probs, targets


def many_columns_starred() -> tuple[list[Any], list[Any]]:
    log_probs, targets = many_columns()
    return log_probs, [np.append(labels, STAR) if place % 2 else labels for place, labels in enumerate(targets)]


def many_columns_broken() -> tuple[list[Any], list[Any]]:
    """Good and bad in turns; what stands in columns that no path visits is no matter."""
    x = many_columns()[0][0]
    poisoned = [x.copy() for _ in range(6)]
    poisoned[0][:, 500:] = np.nan
    poisoned[1][0, 9] = np.inf  # of the second label, too soon
    poisoned[2][3, 8] = np.nan
    poisoned[3][4, 7] = np.inf
    poisoned[4][5] = -np.inf
    poisoned[5][2, 9] = np.nan
    labels = [[8, 9]] * 5 + [[8, STAR, 9]]
    labels += [[8, 7], [8, 1000], [8, -2], [8, STAR, STAR, 9], [8, 8] * 20, [], [8, 9], [8, 9]]
    return [*poisoned, *[x] * 6, x[:0], x[:, :7]], labels


def many_columns_padded(client: Any) -> Any:
    log_probs, _ = many_columns(np.float64)
    batch = np.zeros((3, 40, 1000))
    for item, x in enumerate(log_probs[:3]):
        batch[item, : len(x)] = x
    targets = np.array([[901, 2, 2], [3, 8, 0], [5, STAR, 4]])
    return client.forced_align(batch, targets, [len(x) for x in log_probs[:3]], [3, 2, 3], blank=7, star_score=-0.1)


BAD_MAPS = [((2, 2, 5), 0.5), ((2, 2, 5), np.nan), ((1, 5, 2), 0.5), ((0, 2, 2), 0), ((1, 2, 5), -np.inf)]


def attention(dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(14)
    shapes = zip(rng.integers(1, 5, 12), rng.integers(1, 12, 12), rng.integers(12, 50, 12))
    return [rng.dirichlet(np.ones(int(S)), (int(H), int(T))).transpose(0, 2, 1).astype(dtype) for H, S, T in shapes]


def gaussians(dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(12)
    shapes = [(int(S), int(S + more)) for S, more in zip(rng.integers(1, 20, 15), rng.integers(0, 40, 15))]
    return [tuple(rng.standard_normal((n, 6)).astype(dtype) for n in (T, S, S)) for S, T in shapes]


def lattices(dtype: Any = np.float32, items: int = 12) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(10)
    frames, labels = rng.integers(8, 30, items), [3, *rng.integers(0, 9, items - 1).tolist()]
    log_probs = [np.log(rng.dirichlet(np.ones(7), (int(T), U + 1))).astype(dtype) for T, U in zip(frames, labels)]
    return log_probs, [rng.integers(1, 7, U) for U in labels]


def transducer_padded(client: Any) -> Any:
    log_probs = np.log(np.random.default_rng(11).dirichlet(np.ones(5), (3, 9, 4))).astype(np.float32)
    return client.transducer_align(log_probs, [[1, 2, 2], [3, 4, 0], [4, 0, 0]], [9, 5, 1], [3, 2, 1])


def masked(*shape: int, hole: bool = False) -> Callable[[Any], Any]:
    mask = np.ones(shape)
    if hole:
        mask[0, 0, 1] = 0
    return lambda client: client.maximum_path(np.zeros((2, 3, 5), np.float32), mask)


def wav(samples: Any) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, 16_000, format="WAV")
    return encoded.getvalue()


def audio(data: bytes, text: str = "hello") -> Callable[[Any], Any]:
    return lambda client: client.align_audio(data, text)


RECORDING = (DATA / "dashwood.flac").read_bytes()
SILENCE = wav(np.zeros(16_000))
HELLO = wav(soundfile.read(DATA / "dashwood.flac", frames=16_000)[0])
HISS = wav(np.random.default_rng(5).uniform(-9e-4, 9e-4, 16_000))  # -61 dBFS

SCENARIOS: dict[str, Callable[[Any], Any]] = {
    "mas": lambda client: client.align_mas(values()),
    "mas float64": lambda client: client.align_mas(values(np.float64)),
    "mas float16": lambda client: client.align_mas(values(np.float16)),
    "mas bfloat16": lambda client: client.align_mas([torch.from_numpy(x).bfloat16() for x in values()]),
    "mas of mixed types": lambda client: client.align_mas(values(items=5) + values(np.float64, 5) + values(items=3)),
    "mas of nothing": lambda client: client.align_mas([]),
    "mas with bad items": lambda client: client.align_mas(broken_values(), on_error="return"),
    "mas that raises": lambda client: client.align_mas(broken_values()),
    "mas posteriors": lambda client: client.mas_posteriors(values()),
    "mas posteriors with bad items": lambda client: client.mas_posteriors(broken_values(), on_error="return"),
    "ctc": lambda client: client.align_ctc(*emissions()),
    "ctc posteriors": lambda client: client.ctc_posteriors(*emissions()),
    "ctc posteriors with bad items": lambda client: client.ctc_posteriors(
        [emissions(1)[0][0]] * 6, [[1, 2], [], [0], [9], [STAR, STAR], [1] * 200], on_error="return"
    ),
    "ctc with a wildcard": lambda client: client.align_ctc(
        [emissions(1)[0][0]] * 2, [[STAR, 3, 4], [2, STAR]], star_score=-1.5
    ),
    "ctc with bad items": lambda client: client.align_ctc(
        [emissions(1)[0][0]] * 5, [[1, 2], [0], [9], [STAR, STAR], [1] * 200], on_error="return"
    ),
    "ctc with blank 8": lambda client: client.align_ctc(
        *[part[:4] for part in emissions()], blank=8, on_error="return"
    ),
    "ctc of many columns": lambda client: client.align_ctc(*many_columns(), blank=7),
    "ctc of many columns, float16": lambda client: client.align_ctc(*many_columns(np.float16), blank=7),
    "ctc of many columns, float64": lambda client: client.align_ctc(*many_columns(np.float64), blank=7),
    "ctc of many columns, bfloat16": lambda client: client.align_ctc(
        [torch.from_numpy(x).bfloat16() for x in many_columns()[0]], many_columns()[1], blank=7
    ),
    "ctc of many columns with wildcards": lambda client: client.align_ctc(
        *many_columns_starred(), blank=7, star_score=-0.1
    ),
    "ctc of many columns with wildcards of their largest": lambda client: client.align_ctc(
        *many_columns_starred(), blank=7, star_score="max"
    ),
    "ctc of many columns with bad items": lambda client: client.align_ctc(
        *many_columns_broken(), blank=7, on_error="return"
    ),
    "ctc posteriors of many columns": lambda client: client.ctc_posteriors(*many_columns(), blank=7),
    "ctc posteriors of many columns with wildcards, bad items": lambda client: client.ctc_posteriors(
        *many_columns_broken(), blank=7, star_score=-0.1, on_error="return"
    ),
    "forced_align of many columns": many_columns_padded,
    "forced_align of many columns with bad items": lambda client: client.forced_align(
        np.stack([many_columns()[0][0]] * 4), [[8, 9], [8, 7], [8, 1000], [STAR, STAR]], blank=7
    ),
    "mas with sizes of nothing": lambda client: client.align_mas(
        [np.zeros(shape, np.float32) for shape in ((2, 4), (0, 0), (0, 3 << 20), (3 << 20, 0), (2, 4))],
        on_error="return",
    ),
    "ctc with vocabularies without the blank": lambda client: client.align_ctc(
        [np.zeros(shape, np.float32) for shape in ((6, 12), (6, 3), (6, 12), (6, 9), (6, 10))],
        [[1]] * 5,
        blank=9,
        on_error="return",
    ),
    "ctc with sizes of nothing": lambda client: client.align_ctc(
        [np.zeros(shape, np.float32) for shape in ((6, 4), (0, 0), (6, 0), (0, 4), (6, 4), (6, 4))],
        [[1]] * 4 + [[], [1]],
        on_error="return",
    ),
    "ctc with a wildcard's score over float32": lambda client: client.align_ctc(*emissions(2), star_score=1e39),
    "ctc with a wildcard's score below float32": lambda client: client.align_ctc(
        [np.zeros((1, 3), np.float32)], [[STAR]], star_score=-1e39, on_error="return"
    ),
    "ctc with a wildcard's score that is NaN": lambda client: client.align_ctc(*emissions(2), star_score=np.nan),
    "ctc with a wildcard's score between float32s": lambda client: client.align_ctc(
        [emissions(1)[0][0].astype(np.float64)], [[3, STAR, 4]], star_score=-0.1
    ),
    "forced_align with a blank outside": lambda client: client.forced_align(
        np.zeros((1, 6, 3), np.float32), [[1]], blank=9
    ),
    "forced_align without a vocabulary": lambda client: client.forced_align(np.zeros((1, 6, 0), np.float32), [[1]]),
    "maximum_path": padded,
    "maximum_path with bad items": padded_with_bad_items,
    "a mask with a hole": masked(2, 3, 5, hole=True),
    "a mask of four dimensions": masked(2, 1, 3, 5),
    "a mask of another shape": masked(2, 5, 3),
    "latents": lambda client: client.align_latents(gaussians()),
    "latents with unit deviations": lambda client: client.align_latents([item[:2] for item in gaussians()]),
    "latents float64": lambda client: client.align_latents(gaussians(np.float64)),
    "latents with bad items": lambda client: client.align_latents(
        [
            (np.full((T, 4), value, np.float32), np.zeros((S, 4), np.float32))
            for S, T, value in ((2, 5, 0), (2, 5, np.nan), (5, 2, 0), (0, 3, 0), (2, 5, 3e38))
        ],
        on_error="return",
    ),
    "maximum_path_from_latents": lambda client: client.maximum_path_from_latents(
        *np.random.default_rng(13).standard_normal((2, 3, 9, 4)).astype(np.float32), None, [9, 8, 9], [2, 8, 9]
    ),
    "attention": lambda client: client.align_attention(attention()),
    "attention by its logarithm": lambda client: client.align_attention(attention(), log=True),
    "attention in half precision": lambda client: client.align_attention(attention(np.float16), mode="dtw"),
    "attention warped": lambda client: client.align_attention(attention(), mode="dtw", log=True),
    "attention as a walk": lambda client: client.align_attention(attention(), mode="stepwise"),
    "attention as a walk by logarithms": lambda client: client.align_attention(attention(), mode="stepwise", log=True),
    "attention with bad items": lambda client: client.align_attention(
        [np.full(shape, value, np.float32) for shape, value in BAD_MAPS], on_error="return"
    ),
    "forced_align": ctc_padded,
    "transducer": lambda client: client.align_transducer(*lattices()),
    "transducer with one symbol a frame": lambda client: client.align_transducer(*lattices(), modified=True),
    "transducer float64": lambda client: client.align_transducer(*lattices(np.float64)),
    "transducer bfloat16": lambda client: client.align_transducer(
        [torch.from_numpy(x).bfloat16() for x in lattices()[0]], lattices()[1]
    ),
    "transducer reduced": lambda client: client.align_transducer([x[:, :, :2] for x in lattices()[0]]),
    "transducer with bad items": lambda client: client.align_transducer(
        [lattices()[0][0]] * 5, [[1, 2, 3], [1, 2, 9], [0, 1, 2], [1], [1, 1, 1]], on_error="return"
    ),
    "transducer posteriors": lambda client: client.transducer_posteriors(*lattices()),
    "transducer posteriors with bad items": lambda client: client.transducer_posteriors(
        [np.full((3, 2, 2), value, np.float32) for value in (0, np.nan, -np.inf, np.inf)] + [np.zeros((0, 1, 2))],
        on_error="return",
    ),
    "transducer_align": transducer_padded,
    "transducer_align with bad items": lambda client: client.transducer_align(
        np.zeros((3, 2, 4, 5), np.float32), [[1, 2, 3], [1, 0, 2], [7, 1, 2]], [1, 2, 2], modified=True
    ),
    "transducer_align without targets": lambda client: client.transducer_align(np.zeros((3, 2, 4, 5), np.float32)),
    "audio": lambda client: client.align_audio(DATA / "dashwood.flac", (DATA / "dashwood.txt").read_text()),
    "audios": lambda client: client.align_audios(
        [(HELLO, "and mister"), (b"", "nothing"), ("/nowhere/speech.wav", "lost"), (HELLO, "and")], on_error="return"
    ),
    "audio that is none": audio(b"not audio at all"),
    "audio that is empty": audio(b""),
    "audio that is truncated": audio(RECORDING[: len(RECORDING) // 2]),
    "audio that is silent": audio(SILENCE),
    "audio that is nearly silent": audio(HISS),
    "audio without text": audio(RECORDING, ""),
    "audio with punctuation for text": audio(RECORDING, " … !"),
    "audio with more text than sound": audio(RECORDING, "hello world " * 200),
    "audio with a foreign word": lambda client: client.align_audio(DATA / "dashwood.flac", "hello привет"),
    "audio with a model that is not there": lambda client: client.align_audio(b"x", "hello", model="nobody"),
    "what it runs on": lambda client: [client.server_info().operations, client.server_info().models],
}


def methods(client: type) -> dict[str, list[tuple[Any, ...]]]:
    """What a client offers, and what each takes. (What it is annotated with differs: asyncio takes more iterables.)"""
    public = {name: method for name, method in inspect.getmembers(client, callable) if not name.startswith("_")}
    return {
        name: [(it.name, it.kind, it.default) for it in inspect.signature(method).parameters.values()]
        for name, method in public.items()
    }


def test_both_clients_offer_the_same() -> None:
    assert methods(AlignClient) == methods(AsyncAlignClient)
    assert inspect.signature(AlignClient).parameters == inspect.signature(AsyncAlignClient).parameters


def test_every_method_that_aligns_has_a_scenario() -> None:
    client = mock.create_autospec(AlignClient, instance=True)
    for scenario in SCENARIOS.values():
        scenario(client)
    called = {name for name, _, _ in client.method_calls}
    assert called == methods(AlignClient).keys() - {"in_process", "health", "health_status", "close"}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_all_doors_answer_alike(doors: dict[str, Any], scenario: Callable[[Any], Any]) -> None:
    answers = {name: outcome(client, scenario) for name, client in doors.items()}
    expected = answers[DOORS[0]]
    assert expected or scenario is SCENARIOS["mas of nothing"]
    for name, answer in answers.items():
        assert answer == expected, name


BAD = {
    "attention as a walk by logarithms": (InvalidRequestError, "log: a stepwise walk"),
    "mas that raises": (InvalidItemError, "NaN or \\+inf"),
    "maximum_path with bad items": (InvalidItemsError, "2 of 4"),
    "a mask with a hole": (InvalidRequestError, "item 0"),
    "a mask of four dimensions": (InvalidRequestError, "squeeze"),
    "a mask of another shape": (InvalidRequestError, r"\[2, 5, 3\]"),
    "ctc with a wildcard's score over float32": (InvalidRequestError, "star_score: 1e\\+39"),
    "ctc with a wildcard's score that is NaN": (InvalidRequestError, "star_score: nan"),
    "forced_align with a blank outside": (InvalidRequestError, "blank: 9 is no column of a vocabulary of 3"),
    "forced_align of many columns with bad items": (InvalidItemsError, "3 of 4"),
    "forced_align without a vocabulary": (InvalidRequestError, "blank: 0 is no column of a vocabulary of 0"),
    "transducer_align with bad items": (InvalidItemsError, "3 of 3"),
    "transducer_align without targets": (InvalidRequestError, "log_probs of 5 columns need them"),
    "audio that is none": (InvalidItemError, "not a WAV, FLAC, OGG or MP3"),
    "audio that is empty": (InvalidItemError, "empty"),
    "audio that is truncated": (InvalidItemError, "truncated"),
    "audio that is silent": (InvalidItemError, "-60 dBFS"),
    "audio that is nearly silent": (InvalidItemError, "-60 dBFS"),
    "audio without text": (InvalidItemError, "no words"),
    "audio with punctuation for text": (InvalidItemError, "no words"),
    "audio with more text than sound": (InvalidItemError, "sounds|frames"),
    "audio with a foreign word": (InvalidItemError, "привет"),
    "audio with a model that is not there": (InvalidRequestError, "nobody"),
}


@pytest.mark.parametrize(("name", "kind", "words"), [(name, *expected) for name, expected in BAD.items()], ids=BAD)
def test_bad_input_is_refused_by_name(doors: dict[str, Any], name: str, kind: type[AlignError], words: str) -> None:
    with pytest.raises(kind, match=words):
        list(SCENARIOS[name](doors["threads, server"]))


def test_mas_is_the_references(door: Any) -> None:
    items = values()
    for x, found in zip(items, door.align_mas(items), strict=True):
        _, durations, score = mas_reference(x, np.float32)
        assert np.array_equal(found.durations, durations)
        assert np.array_equal(found.path, np.repeat(np.arange(len(x)), durations))
        assert found.score == score


def test_ctc_is_the_references(door: Any) -> None:
    log_probs, targets = emissions(12)
    for x, y, found in zip(log_probs, targets, door.align_ctc(log_probs, targets), strict=True):
        expected = ctc_reference(x, y, accumulator=np.float32)
        assert np.array_equal(found.path, expected.path)
        assert np.array_equal(found.durations, expected.durations)
        assert np.array_equal(found.frame_scores, expected.frame_scores)
        assert found.score == expected.score


def test_transducers_are_the_references(door: Any) -> None:
    log_probs, targets = lattices()
    paths, nodes = door.align_transducer(log_probs, targets), door.transducer_posteriors(log_probs, targets)
    for x, y, path, node in zip(log_probs, targets, paths, nodes, strict=True):
        arcs = transducer_reference.arcs_of(x, y, 0)
        _, starts, score = transducer_reference.align(arcs, False, np.float32)
        assert np.array_equal(path.emission_frames, starts)
        assert path.score == score
        _, expected, total = transducer_reference.posteriors(arcs)
        np.testing.assert_allclose(node.posteriors, expected, atol=1e-4)
        assert node.score == pytest.approx(total, rel=1e-5)


def test_drop_ins_are_the_kernels_own(door: Any) -> None:
    assert np.array_equal(padded(door), padded(alignd_kernels))
    for ours, theirs in zip(ctc_padded(door), ctc_padded(alignd_kernels), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_a_drop_in_lists_every_bad_item(door: Any) -> None:
    with pytest.raises(InvalidItemsError) as raised:
        padded_with_bad_items(door)
    assert [error.index for error in raised.value.errors] == [1, 3]


def test_an_item_raises_when_it_is_reached(door: Any) -> None:
    with pytest.raises(InvalidItemError) as raised:
        list(door.align_mas(broken_values()))
    assert raised.value.index == 1
    assert "NaN" in str(raised.value)


def test_torch_comes_back_as_torch(door: Any) -> None:
    value = torch.randn(2, 3, 8).transpose(1, 2)  # [2, 8, 3], not contiguous
    path = door.maximum_path(value.transpose(1, 2), torch.ones(2, 3, 8, dtype=torch.bool), dtype=torch.int32)
    assert isinstance(path, torch.Tensor)
    assert path.dtype == torch.int32
    assert path.sum() == 16


def test_arrays_of_every_shape_in_memory(door: Any) -> None:
    base = np.random.default_rng(3).standard_normal((40, 60)).astype(np.float32)
    frozen = base[:5, :20].copy()
    frozen.flags.writeable = False
    views = [base[::2, ::-1], base[::-1, 10:50:2][:9], base.T[:30], np.asfortranarray(base), frozen]
    for view, found in zip(views, door.align_mas(views), strict=True):
        assert np.array_equal(found.durations, mas_reference(view, np.float32)[1])


def test_cells_that_no_path_visits_may_hold_anything(door: Any) -> None:
    x = np.random.default_rng(4).standard_normal((4, 9)).astype(np.float32)
    s, t = np.ogrid[:4, :9]
    outside = (s > t) | (s < t - 5)
    poisoned = np.where(outside, np.nan, x)
    clean, dirty = door.align_mas([x, poisoned])
    assert np.array_equal(clean.path, dirty.path)
