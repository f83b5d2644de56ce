"""The two stages around CTC: before it, bytes and text to emissions and targets; after it, a path to times."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd.wire import AlignedSymbol
from alignd_server.audio.acoustic import AcousticModel, ModelDescription, Transcript
from alignd_server.audio.decode import decode
from alignd_server.audio.timing import locate


@dataclass(frozen=True, slots=True)
class Utterance:
    """What CTC needs of one recording, and what its path needs to become times.

    Attributes:
        log_probs: float32 [T, V], C-contiguous.
        transcript: with the targets, int32 [L].
        description: of the model.
        audio_seconds: length of the recording.
    """

    log_probs: npt.NDArray[np.float32]
    transcript: Transcript
    description: ModelDescription
    audio_seconds: float


def listen(model: AcousticModel, audio: bytes, transcript: str, max_seconds: float = math.inf) -> Utterance:
    """The first stage. What costs least is looked at first: the transcript, the encoded audio, the sound. So of several
    faults the transcript's is told.

    Args:
        model: see `AcousticModel`.
        audio: an encoded file.
        transcript: what is said in it.
        max_seconds: a limit below the model's own.

    Raises:
        AudioError: the recording or the transcript cannot be used; its status, field and message say why.
        MissingExtraError: a package for audio is not installed.
    """
    description = model.describe()
    prepared = model.prepare(transcript)
    samples = decode(audio, description.sample_rate, min(max_seconds, description.max_seconds))
    return Utterance(model.emissions(samples), prepared, description, len(samples) / description.sample_rate)


def timed(
    utterance: Utterance, path: npt.NDArray[np.integer], frame_scores: npt.NDArray[np.floating]
) -> tuple[tuple[AlignedSymbol, ...], tuple[AlignedSymbol, ...]]:
    """The second stage: words and tokens, from CTC's best path [T] and the log-probs [T] along it."""
    return locate(path, frame_scores, utterance.transcript, utterance.description, utterance.audio_seconds)
