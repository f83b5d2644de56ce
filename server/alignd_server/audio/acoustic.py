"""What an acoustic model is to the server: emissions for a recording, targets for a transcript."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a model says of itself.

    Attributes:
        name: as AlignAudio requests name it.
        language: of the transcripts, as a BCP 47 tag.
        sample_rate: of the samples it takes, in Hz.
        frame_seconds: from one frame of its emissions to the next.
        license: SPDX expression of the weights.
        start_offset_s: added to the time of a symbol's first CTC frame: CTC emits a symbol once it has been heard.
        end_offset_s: added to the end of a symbol's last CTC frame.
        max_seconds: the longest recording that it takes.
        vocabulary: the symbol of each column of its emissions.
        blank: CTC's blank, a column.
    """

    name: str
    language: str
    sample_rate: int
    frame_seconds: float
    license: str
    start_offset_s: float
    end_offset_s: float
    max_seconds: float
    vocabulary: tuple[str, ...]
    blank: int


@dataclass(frozen=True, slots=True)
class TranscriptWord:
    """A word: `text` as the transcript spells it, its `spoken` words, and its targets [`start`, `end`)."""

    text: str
    spoken: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript as CTC takes it.

    Attributes:
        words: in order; their targets do not overlap.
        targets: int32 [L], columns of the emissions.
        symbols: L names, as results call the targets; None for a target that is aligned and not reported (the
            boundary between two words), "" for one that belongs to the token before it (a letter's mark). No word
            begins with "".
    """

    words: tuple[TranscriptWord, ...]
    targets: npt.NDArray[np.int32]
    symbols: tuple[str | None, ...]


class AcousticModel(Protocol):
    """An acoustic model with CTC emissions.

    Safe for use by many threads at a time. (Where the engine beneath is not, an implementation keeps one session for
    each thread, in a `threading.local`, loaded when the thread first needs it.)
    """

    def describe(self) -> ModelDescription:
        """Cheap: loads no weights."""
        ...

    def prepare(self, transcript: str) -> Transcript:
        """Words and targets of a transcript.

        Raises:
            EmptyTranscriptError: it has no words.
            TextUnsupportedError: it holds something that cannot be pronounced; the message names it.
            LongTranscriptError: it has more targets than a recording of `max_seconds` has frames.
        """
        ...

    def emissions(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probs [T, V], C-contiguous, of mono samples [n] at the model's sample rate.

        Raises:
            LongAudioError: the recording is longer than `max_seconds`.
        """
        ...
