"""The default acoustic model: the English side of `hama` 1.7.0, phoneme CTC on the CPU, offline (Apache-2.0, 22 MB).

Measured on five read utterances (71 words) against the word times of an independent HMM aligner, and on synthesised
words:

- The G2P spells some common words oddly ("one" as "o n e", "general" as "ʒ ɨ n ɨ ɾ a ɫ"), and the recogniser often
  hears them so: of 17 such words, synthesised, 10 score higher as the G2P spells them and 7 as English does, and the
  times move by 40 ms at most. So its symbols are the targets as they are, but for four words that are spelt another
  way (`RESPELT`). "Euro" has the symbols of another language: of 20 synthesised sentences the English ones score higher
  in all, by 13 to 33. What is said for "Mr.", "Mrs." and "etc." the recogniser hears as the G2P reads the abbreviations
  themselves ("m ɝ ɹ ə", "ɛ t s i"): higher in all 20 again, by 1 to 18, and by 23 in a reader's "mister". For "Dr.",
  "St.", "Ms.", "vs.", "Jr." and "Prof." what is said scores higher in sum.
- Some of its symbols are marks, "̪" and "ː" for instance, that its recogniser does emit: they are targets of their own
  and are reported with the symbol before them.
- The one exception is the space that the G2P puts between the phonemes of some words: the recogniser never emits it.
- With the word boundary `<wb>` as a target between words, the paths' scores rise from -173 … -57 to -38 … -6, and the
  mean error of word starts falls from 28.9 to 26.9 ms. Before the first word and after the last it only costs score.
- It silently returns the first 30 s of anything longer; the G2P, the first 31 symbols of a long word.
"""

import functools
import threading
import unicodedata
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_server.audio.acoustic import ModelDescription, Transcript, TranscriptWord
from alignd_server.audio.errors import LongAudioError, LongTranscriptError, TextUnsupportedError, require
from alignd_server.audio.text import english_words

SAMPLE_RATE: Final = 16_000
FRAME_SAMPLES: Final = 320
MAX_FRAMES: Final = 1500
MAX_SECONDS: Final = MAX_FRAMES * FRAME_SAMPLES / SAMPLE_RATE

# Fitted on synthesised speech, whose phoneme times are exact: a symbol is emitted some 80 ms after its sound begins.
START_OFFSET_S: Final = -0.080
END_OFFSET_S: Final = 0.006

WORD_BOUNDARY: Final = "<wb>"
BLANK: Final = "<blank>"
SEPARATOR: Final = " "
NO_SOUNDS: Final = frozenset({"<pad>", "<sos>", "<eos>", "<unk>", "%", ",", WORD_BOUNDARY, BLANK})
"""Columns that stand for no sound."""

RESPELT: Final = {"euro": "yuro", "euros": "yuros", "mister": "mr", "missus": "mrs", "etcetera": "etc"}
"""What the G2P is given for a word, so that it has the symbols that the recogniser hears."""

TIES: Final = frozenset("\u0361\u035c\u203f")
"""Marks that join two letters."""

MAX_PHONEMES: Final = 64  # of a word; only a loop ("m" gives "məməmə…") gets there
MAX_SILENT_END: Final = 4  # letters: 3 is the most in a sample of 1,700 English words
MAX_CHARACTERS: Final = 100_000  # of a transcript; 30 s of speech have some 500
CACHED_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What the G2P asks of its vocabulary. The package's own builds its dictionaries, of 19,750 entries, anew for each
    letter, which takes two thirds of the G2P's time."""

    encoder_token_to_id: dict[str, int]
    decoder: list[str]
    pad_id: int
    sos_id: int
    eos_id: int


class HamaModel:
    """English phonemes, 191 columns, 20 ms frames, recordings of up to 30 s.

    Time and memory grow faster than the recording: 7 s of audio take 0.45 s and 18 MB, 30 s take 3.2 s and 94 MB (one
    core of the machine where this was measured). Each thread that uses the model loads a session of its own (10 MB,
    0.1 s); pronunciations are kept and shared.

    Raises:
        MissingExtraError: hama is not installed.
        ImportError: hama has no engine for this platform.
    """

    def __init__(self) -> None:
        hama = require("hama")
        if not require("hama._engine").available():
            raise ImportError(
                "the package hama has no engine for this platform (it has Linux and macOS on x86-64 and ARM)"
            )
        loaded = hama.Vocabulary.load()
        self._vocabulary = _Vocabulary(
            loaded.encoder_token_to_id, loaded.decoder, loaded.pad_id, loaded.sos_id, loaded.eos_id
        )
        vocabulary = (*loaded.decoder, WORD_BOUNDARY, BLANK)
        self._column = {symbol: column for column, symbol in enumerate(vocabulary)}
        self._description = ModelDescription(
            name="hama-en",
            language="en",
            sample_rate=SAMPLE_RATE,
            frame_seconds=FRAME_SAMPLES / SAMPLE_RATE,
            license="Apache-2.0",
            start_offset_s=START_OFFSET_S,
            end_offset_s=END_OFFSET_S,
            max_seconds=MAX_SECONDS,
            vocabulary=vocabulary,
            blank=self._column[BLANK],
        )
        self._thread = threading.local()
        self._phonemes = functools.lru_cache(CACHED_WORDS)(self._pronounce)

    def describe(self) -> ModelDescription:
        return self._description

    def prepare(self, transcript: str) -> Transcript:
        if len(transcript) > MAX_CHARACTERS:
            raise LongTranscriptError(
                f"the transcript has {len(transcript)} characters; up to {MAX_CHARACTERS} are taken, "
                f"for recordings of up to {MAX_SECONDS:g} s"
            )
        said = english_words(transcript)
        _check_sounds(2 * sum(len(word.spoken) for word in said) - 1)  # one each and the boundaries, at the least
        words: list[TranscriptWord] = []
        symbols: list[str] = []
        for word in said:
            start = len(symbols) + bool(symbols)  # after the boundary
            for spoken in word.spoken:
                if symbols:
                    symbols.append(WORD_BOUNDARY)
                symbols.extend(self._phonemes(spoken))
                _check_sounds(len(symbols))
            words.append(TranscriptWord(word.text, word.spoken, start, len(symbols)))
        targets = np.array([self._column[symbol] for symbol in symbols], np.int32)
        return Transcript(tuple(words), targets, _reported(symbols))

    def emissions(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if len(samples) > MAX_FRAMES * FRAME_SAMPLES:
            seconds = len(samples) / SAMPLE_RATE
            raise LongAudioError(
                f"the audio lasts {seconds:.1f} s; the model {self._description.name} takes up to {MAX_SECONDS:g} s"
            )
        waveform = np.clip(samples, -1.0, 1.0)[None]  # as the package's own entry does
        log_probs, lengths = self._recogniser().run(
            ["log_probs", "out_lengths"], {"waveform": waveform, "waveform_lengths": np.array([len(samples)])}
        )
        return np.ascontiguousarray(log_probs[0, : int(lengths[0])], np.float32)

    def _pronounce(self, spoken: str) -> tuple[str, ...]:
        """Symbols of one word in `[a-z']+`, never empty, each a column of the emissions."""
        spelt = RESPELT.get(spoken, spoken)
        alignments = self._g2p().predict(spelt).alignments
        sounds = tuple(a.phoneme for a in alignments if a.phoneme != SEPARATOR)
        # The G2P ends a word after 31 symbols, wherever it is, and reads no more than 128 letters.
        unread = len(spelt) - 1 - max((a.char_index for a in alignments), default=-1)
        if all(map(_is_mark, sounds)) or len(alignments) >= MAX_PHONEMES or unread > MAX_SILENT_END:
            raise TextUnsupportedError(
                f"the transcript's “{spoken[:40]}” cannot be pronounced; if it is a long word, hyphens help"
            )
        for sound in sounds:
            if sound in NO_SOUNDS or sound not in self._column:
                raise TextUnsupportedError(
                    f"the transcript's “{spoken}” has the phoneme “{sound}”, which the model "
                    f"{self._description.name} does not know"
                )
        return sounds

    def _recogniser(self) -> Any:
        if not hasattr(self._thread, "recogniser"):
            self._thread.recogniser = require("hama").ASRModel(model_sample_rate=SAMPLE_RATE).session
        return self._thread.recogniser

    def _g2p(self) -> Any:
        if not hasattr(self._thread, "g2p"):
            g2p = require("hama").G2PModel(max_output_len=MAX_PHONEMES)
            g2p.vocab = g2p.tokenizer.vocab = self._vocabulary
            self._thread.g2p = g2p
        return self._thread.g2p


def _reported(symbols: list[str]) -> tuple[str | None, ...]:
    """Names of targets, the boundary's None; of a letter with its marks, and of two that are tied, the first's is that
    of all and the others' are ""."""
    names: list[str | None] = []
    head = -1  # of the letter that is being named; -1 at a word's beginning
    for position, symbol in enumerate(symbols):
        name = names[head] if head >= 0 else None
        if symbol == WORD_BOUNDARY:
            names.append(None)
            head = -1
        elif name is not None and (_is_mark(symbol) or symbols[position - 1] in TIES or _is_mark(name)):
            names[head] = name + symbol
            names.append("")
        else:
            names.append(symbol)
            head = position
    return tuple(names)


def _is_mark(symbol: str) -> bool:
    return symbol in TIES or all(unicodedata.category(c) in ("Mn", "Lm", "Sk") for c in symbol)


def _check_sounds(count: int) -> None:
    """Refuse what no recording can hold before the G2P, which takes milliseconds for a word, spends minutes on it."""
    if count > MAX_FRAMES:
        raise LongTranscriptError(
            f"the transcript has more than {MAX_FRAMES} sounds, as many as a recording of {MAX_SECONDS:g} s has frames"
        )
