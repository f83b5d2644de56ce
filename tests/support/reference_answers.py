"""What a server answers, computed by the kernels' specification: slow, and the judge."""

from collections.abc import Callable
from typing import Any

import numpy as np

from alignd import wire
from alignd_kernels.attention import reference as attention
from alignd_kernels.ctc import reference as ctc
from alignd_kernels.ctc import sum_reference as soft_ctc
from alignd_kernels.dtypes import DType, widen
from alignd_kernels.mas import latents
from alignd_kernels.mas import reference as mas
from alignd_kernels.mas import soft_reference as soft_mas
from alignd_kernels.status import Status
from alignd_kernels.transducer import reference as transducer


def status_of(status: Status, field: str) -> wire.ItemStatus:
    if status is Status.OK:
        return wire.OK
    return wire.ItemStatus(wire.ItemCode(int(status)), field, f"the reference says {status.name}")


def matrices(flat: Any, data_type: wire.DataType, shapes: list[tuple[int, int]]) -> list[Any]:
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    values = widen(flat, DType(data_type.value))
    return [values[end - rows * columns : end].reshape(rows, columns) for end, (rows, columns) in zip(ends, shapes)]


def maximum_path(request: wire.MasRequest) -> wire.MasReply:
    shapes = list(zip(request.tokens.tolist(), request.frames.tolist()))
    answers = [mas.maximum_path(value, np.float32) for value in matrices(request.values, request.data_type, shapes)]
    return wire.MasReply(
        tuple(status_of(status, "values") for status, _, _ in answers),
        np.concatenate([durations for _, durations, _ in answers]),
        np.zeros(0, np.int32),
        np.array([score for _, _, score in answers]),
    )


def maximum_path_from_latents(request: wire.LatentsRequest) -> wire.LatentsReply:
    """By the lattice in float64."""
    C, S, T = request.channels, request.tokens.tolist(), request.frames.tolist()
    z = matrices(request.latents, request.data_type, [(frames, C) for frames in T])
    means = matrices(request.means, request.data_type, [(tokens, C) for tokens in S])
    sigmas = [None] * len(S)
    if not request.unit:
        sigmas = matrices(request.log_sigmas, request.data_type, [(tokens, C) for tokens in S])
    answers = [mas.maximum_path(latents.reference_lattice(*item)) for item in zip(z, means, sigmas)]
    return wire.LatentsReply(
        tuple(status_of(status, "latents") for status, _, _ in answers),
        np.concatenate([durations for _, durations, _ in answers]),
        np.array([score for _, _, score in answers]),
    )


def mas_posteriors(request: wire.MasRequest) -> wire.PosteriorsReply:
    shapes = list(zip(request.tokens.tolist(), request.frames.tolist()))
    answers = [soft_mas.posteriors(value) for value in matrices(request.values, request.data_type, shapes)]
    return wire.PosteriorsReply(
        tuple(status_of(status, "values") for status, _, _ in answers),
        np.concatenate([cells.ravel() for _, cells, _ in answers]).astype(np.float32),
        np.array([score for _, _, score in answers]),
    )


def forced_align(request: wire.CtcRequest) -> wire.CtcReply:
    shapes = [(frames, request.vocabulary_size) for frames in request.frames.tolist()]
    targets = np.split(request.targets, np.cumsum(request.target_lengths)[:-1])
    star_score = float("nan") if request.star_score is None else request.star_score
    answers = [
        ctc.forced_align(log_probs, labels, request.blank, star_score, np.float32)
        for log_probs, labels in zip(matrices(request.log_probs, request.data_type, shapes), targets)
    ]
    return wire.CtcReply(
        tuple(status_of(answer.status, "log_probs") for answer in answers),
        np.concatenate([answer.durations for answer in answers]),
        np.concatenate([answer.path for answer in answers]),
        np.concatenate([answer.frame_scores for answer in answers]),
        np.array([answer.score for answer in answers]),
    )


def ctc_posteriors(request: wire.CtcRequest) -> wire.PosteriorsReply:
    shapes = [(frames, request.vocabulary_size) for frames in request.frames.tolist()]
    targets = np.split(request.targets, np.cumsum(request.target_lengths)[:-1])
    star_score = float("nan") if request.star_score is None else request.star_score
    answers = [
        soft_ctc.posteriors(log_probs, labels, request.blank, star_score)
        for log_probs, labels in zip(matrices(request.log_probs, request.data_type, shapes), targets)
    ]
    return wire.PosteriorsReply(
        tuple(status_of(status, "log_probs") for status, _, _ in answers),
        np.concatenate([states.ravel() for _, states, _ in answers]).astype(np.float32),
        np.array([score for _, _, score in answers]),
    )


def _lattices(request: wire.TransducerRequest) -> list[Any]:
    """Arcs [T, U + 1, 2] of each item."""
    nodes = (request.labels + 1).tolist()
    shapes = [(frames, 2 * n) for frames, n in zip(request.frames.tolist(), nodes)]
    rows = matrices(request.arcs, request.data_type, shapes)
    return [arcs.reshape(len(arcs), n, 2) for arcs, n in zip(rows, nodes)]


def _lattice_status(arcs: Any, modified: bool) -> Status:
    return transducer.check_labels(np.ones(arcs.shape[1] - 1, int), len(arcs), 2, 0, modified)


def transducer_align(request: wire.TransducerRequest) -> wire.TransducerReply:
    answers = []
    for arcs in _lattices(request):
        status = _lattice_status(arcs, request.modified)
        nothing = (status, np.zeros(arcs.shape[1] - 1, np.int32), np.nan)
        answers.append(transducer.align(arcs, request.modified, np.float32) if status is Status.OK else nothing)
    return wire.TransducerReply(
        tuple(status_of(status, "arcs") for status, _, _ in answers),
        np.concatenate([frames for _, frames, _ in answers]),
        np.array([score for _, _, score in answers]),
    )


def transducer_posteriors(request: wire.TransducerRequest) -> wire.PosteriorsReply:
    answers = []
    for arcs in _lattices(request):
        status = _lattice_status(arcs, request.modified)
        nothing = (status, np.zeros(arcs.shape[:2]), np.nan)
        answers.append(transducer.posteriors(arcs, request.modified) if status is Status.OK else nothing)
    return wire.PosteriorsReply(
        tuple(status_of(status, "arcs") for status, _, _ in answers),
        np.concatenate([nodes.ravel() for _, nodes, _ in answers]).astype(np.float32),
        np.array([score for _, _, score in answers]),
    )


def align_attention(request: wire.AttentionRequest) -> wire.AttentionReply:
    shapes = list(zip(request.heads.tolist(), request.tokens.tolist(), request.frames.tolist()))
    rows = matrices(request.attention, request.data_type, [(H, S * T) for H, S, T in shapes])
    maps = [row.reshape(shape) for row, shape in zip(rows, shapes)]
    answers = [attention.align(x, request.mode.value, request.log, np.float32) for x in maps]
    return wire.AttentionReply(
        tuple(status_of(answer[0], "attention") for answer in answers),
        np.array([answer[1] for answer in answers], np.int32),
        *(np.concatenate([answer[place] for answer in answers]) for place in (2, 3, 4)),
        np.array([answer[5] for answer in answers]),
    )


def align_audio(request: wire.AudioRequest) -> wire.AudioReply:
    """A byte is a millisecond, and each letter lasts as long as the next."""
    seconds = len(request.audio) / 1000
    if not request.audio:
        failed = wire.ItemStatus(wire.ItemCode.AUDIO_UNREADABLE, "audio", "the audio is empty")
        return wire.AudioReply(failed, (), (), float("nan"), 0.0, "even")
    words = request.transcript.split()
    letters = [letter for word in words for letter in word]
    step = seconds / len(letters)
    tokens = tuple(wire.AlignedSymbol(letter, i * step, step, -0.5, 0.9) for i, letter in enumerate(letters))
    starts = np.cumsum([0, *map(len, words)])
    spoken = tuple(
        wire.AlignedSymbol(word, float(start) * step, len(word) * step, -0.5) for word, start in zip(words, starts)
    )
    return wire.AudioReply(wire.OK, spoken, tokens, -0.5 * len(letters), seconds, request.model or "even")


ANSWERS: dict[str, Callable[[Any], Any]] = {
    "MaximumPath": maximum_path,
    "MaximumPathFromLatents": maximum_path_from_latents,
    "MasPosteriors": mas_posteriors,
    "ForcedAlign": forced_align,
    "CtcPosteriors": ctc_posteriors,
    "TransducerAlign": transducer_align,
    "TransducerPosteriors": transducer_posteriors,
    "AlignAttention": align_attention,
    "AlignAudio": align_audio,
}
ALIGNMENTS: tuple[wire.Rpc[Any, Any], ...] = (
    wire.MAXIMUM_PATH,
    wire.MAXIMUM_PATH_FROM_LATENTS,
    wire.MAS_POSTERIORS,
    wire.FORCED_ALIGN,
    wire.CTC_POSTERIORS,
    wire.TRANSDUCER_ALIGN,
    wire.TRANSDUCER_POSTERIORS,
    wire.ALIGN_ATTENTION,
    wire.ALIGN_AUDIO,
)
RPCS = {rpc.name: rpc for rpc in (*ALIGNMENTS, wire.GET_SERVER_INFO)}


def server_info(max_message_bytes: int = 64 << 20, max_queue_items: int = 65_536) -> wire.ServerInfo:
    return wire.ServerInfo(
        "0.0.0",
        (wire.Device("cpu", "a patient one", "reference"),),
        tuple(ANSWERS),
        (wire.Model("even", "en", 16_000, 0.02, "Apache-2.0"),),
        wire.Limits(max_message_bytes, max_queue_items, 1 << 29, 1 << 27),
    )
