"""Many recordings, as a manifest lists them: one file of times for each, and what failed."""

import errno
import json
import os.path
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alignd_client.client import AlignClient
from alignd_client.outputs import write_whole
from alignd_client.results import AudioAlignment

_AUDIO_KEYS: Final = ("audio", "audio_filepath")
"""Ours, and NeMo's."""

_EVERY_SECONDS: Final = {True: 0.5, False: 30.0}
"""Between two lines of progress, by whether people look at a terminal."""

_SHORT_SECONDS: Final = 0.1
"""By so much a manifest's duration may be short of its recording: manifests round."""

_BAD_NAMES: Final = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""Where an output cannot be written for its name: others can."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: where it stands, its recording, what is said, how many seconds it names, and the path of its output."""

    place: str
    audio: Path
    text: str
    seconds: float | None
    output: Path


class Progress:
    """What has been done, on stderr: on a terminal in one line, elsewhere in one every half a minute."""

    def __init__(self) -> None:
        self.failed = 0
        self.done_before = 0
        self._aligned = 0
        self._audio_seconds = 0.0
        self._begin = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def success(self, audio_seconds: float) -> None:
        self._aligned += 1
        self._audio_seconds += audio_seconds
        if time.monotonic() - self._shown >= _EVERY_SECONDS[self._terminal]:
            self.show("" if self._terminal else "\n")

    def failure(self, place: str, reason: str) -> None:
        self.failed += 1
        sys.stderr.write(f"{self._wiped()}alignd: {place}: {' '.join(reason.split())}\n")

    def show(self, end: str = "\n") -> None:
        self._shown = time.monotonic()
        speed = self._audio_seconds / max(self._shown - self._begin, 1e-9)
        before = f"{self.done_before} done before, " if self.done_before else ""
        line = f"{before}{self._aligned} aligned, {self.failed} failed, {speed:.1f} audio hours per hour"
        sys.stderr.write(self._wiped() + line + end)
        sys.stderr.flush()

    def _wiped(self) -> str:
        return "\r\x1b[K" if self._terminal else ""


def align_manifest(
    client: AlignClient,
    manifest: Path,
    output_dir: Path,
    write: Callable[..., str],
    extension: str,
    *,
    tokens: bool = False,
    model: str = "",
    existing: str | None = None,
) -> int:
    """Aligns all, and tells of the failed ones on stderr. Returns how many failed.

    Args:
        manifest: lines of JSON, {"audio": path, "text": str}; paths are relative to its folder.
        output_dir: a recording's output keeps the folders of its relative path.
        write: one of `formats.FORMATS`.
        extension: of the outputs.
        tokens: as `write` takes it.
        model: "" for the default.
        existing: an output that is there already is replaced ("overwrite"), left without its recording being aligned
            ("skip-existing"), or its recording's failure (None).

    Raises:
        OSError: for a manifest that cannot be read, or an output that cannot be written, unless its name alone is why.
        AlignError: for what is about no single recording.
    """
    progress = Progress()
    sent: deque[Entry] = deque()

    def recordings() -> Iterator[tuple[Path, str]]:
        for entry in _entries(manifest, lambda audio: output_dir / _output(audio, extension), existing, progress):
            sent.append(entry)
            yield entry.audio, entry.text

    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        for alignment in client.align_audios(recordings(), model=model, on_error="return"):
            entry = sent.popleft()
            reason = _refusal(entry, alignment)
            if reason is not None:
                progress.failure(f"{entry.place}: {entry.audio}", reason)
                continue
            text = write(alignment, tokens=tokens, name=entry.audio.stem, transcript=entry.text)
            try:
                entry.output.parent.mkdir(parents=True, exist_ok=True)
                write_whole(entry.output, text)
            except OSError as error:
                if error.errno not in _BAD_NAMES:
                    raise
                reason = f"its output cannot be written: {error.filename}: {error.strerror}"
                progress.failure(entry.place, reason)
                continue
            progress.success(alignment.audio_seconds)
    finally:
        progress.show()
    return progress.failed


def _refusal(entry: Entry, alignment: AudioAlignment) -> str | None:
    """Why there is nothing to write; None if there is."""
    if not alignment.status.ok:
        return re.sub(r"^item \d+ makes", "it makes", alignment.status.message)  # its number is no line's
    seconds = alignment.audio_seconds
    if entry.seconds is not None and not seconds - _SHORT_SECONDS <= entry.seconds:
        return f'"duration" is {entry.seconds} s of {seconds:.2f} s: cut the piece out first, for all would be aligned'
    return None


def _entries(
    manifest: Path, output_of: Callable[[str], Path], existing: str | None, progress: Progress
) -> Iterator[Entry]:
    """Its good lines that are to be aligned; of the others `progress` is told."""
    taken: dict[Path, int] = {}
    with manifest.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{manifest}:{number}"
            try:
                audio, text, seconds = _fields(line)
                output = output_of(audio)
                other = taken.setdefault(output, number)
                if other != number:
                    raise ValueError(f"its output {output} would be that of line {other} too")
                if existing == "skip-existing" and os.path.isfile(output):
                    progress.done_before += 1
                    continue
                if existing != "overwrite" and os.path.lexists(output):
                    raise ValueError(f"its output {output} is there already: see --overwrite, --skip-existing")
            except ValueError as error:
                progress.failure(place, str(error))
                continue
            yield Entry(place, manifest.parent / audio, text, seconds, output)


def _fields(line: bytes) -> tuple[str, str, float | None]:
    """The recording's path, what is said in it, and its seconds where named. Raises `ValueError`."""
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no line of JSON in UTF-8: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError('each line must be an object, {"audio": path, "text": what is said}')
    audio = next((fields[key] for key in _AUDIO_KEYS if key in fields), None)
    text = fields.get("text")
    if not isinstance(audio, str) or not audio or not isinstance(text, str):
        raise ValueError('"audio" (or "audio_filepath") and "text" must be there, and strings')
    try:
        (audio + text).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'"audio" and "text" must be Unicode: {error}') from None
    if fields.get("offset"):
        raise ValueError('"offset" is not taken: cut the recording, for it would be aligned as a whole')
    seconds = fields.get("duration")
    if not isinstance(seconds, int | float | None):
        raise ValueError('"duration" must be a number of seconds')
    return audio, text.strip(), seconds


def _output(audio: str, extension: str) -> Path:
    """Under the folder of outputs. Raises `ValueError` for what is no file's name."""
    path = Path(audio)
    if path.name in ("", ".."):
        raise ValueError(f'"audio" must name a file, not {audio!r}')
    path = path.with_name(path.with_suffix("").name + extension)
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path
