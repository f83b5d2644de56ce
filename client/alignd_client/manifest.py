"""Many recordings, as a manifest lists them: one file of times for each, and what failed."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alignd_client.client import AlignClient

_AUDIO_KEYS: Final = ("audio", "audio_filepath")
"""Ours, and NeMo's."""

_EVERY_SECONDS: Final = {True: 0.5, False: 30.0}
"""Between two lines of progress, by whether people look at a terminal."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: where it stands, its recording, what is said, and the path of its output without an extension."""

    place: str
    audio: Path
    text: str
    output: Path


class Progress:
    """What has been done, on stderr: on a terminal in one line, elsewhere in one every half a minute."""

    def __init__(self) -> None:
        self.failed = 0
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
        line = f"{self._aligned} aligned, {self.failed} failed, {speed:.1f} audio hours per hour"
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
) -> int:
    """Aligns all, and tells of the failed ones on stderr. Returns how many failed.

    Args:
        manifest: lines of JSON, {"audio": path, "text": str}; paths are relative to its folder.
        output_dir: a recording's output keeps the folders of its relative path.
        write: one of `formats.FORMATS`.
        extension: of the outputs.
        tokens: as `write` takes it.
        model: "" for the default.

    Raises:
        OSError: for a manifest that cannot be read, or an output that cannot be written.
        AlignError: for what is about no single recording.
    """
    progress = Progress()
    sent: deque[Entry] = deque()

    def recordings() -> Iterator[tuple[Path, str]]:
        for entry in _entries(manifest, output_dir, progress):
            sent.append(entry)
            yield entry.audio, entry.text

    try:
        for alignment in client.align_audios(recordings(), model=model, on_error="return"):
            entry = sent.popleft()
            if not alignment.status.ok:
                progress.failure(f"{entry.place}: {entry.audio}", alignment.status.message)
                continue
            text = write(alignment, tokens=tokens, name=entry.audio.stem, transcript=entry.text)
            entry.output.parent.mkdir(parents=True, exist_ok=True)
            entry.output.with_name(entry.output.name + extension).write_text(text, encoding="utf-8")
            progress.success(alignment.audio_seconds)
    finally:
        progress.show()
    return progress.failed


def _entries(manifest: Path, output_dir: Path, progress: Progress) -> Iterator[Entry]:
    """Its good lines; of the others `progress` is told."""
    taken: dict[Path, int] = {}
    with manifest.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{manifest}:{number}"
            try:
                audio, text = _fields(line)
                output = output_dir / _output(audio)
                other = taken.setdefault(output, number)
                if other != number:
                    raise ValueError(f"its output {output} would be that of line {other} too")
            except ValueError as error:
                progress.failure(place, str(error))
                continue
            yield Entry(place, manifest.parent / audio, text, output)


def _fields(line: bytes) -> tuple[str, str]:
    """The recording's path and what is said in it. Raises `ValueError`."""
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no line of JSON in UTF-8: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError('each line must be an object, {"audio": path, "text": what is said}')
    audio = next((fields[key] for key in _AUDIO_KEYS if key in fields), None)
    text = fields.get("text")
    if not isinstance(audio, str) or not audio or not isinstance(text, str):
        raise ValueError('"audio" (or "audio_filepath") and "text" must be there, and strings')
    if fields.get("offset"):
        raise ValueError('"offset" is not taken: cut the recording, for it would be aligned as a whole')
    return audio, text.strip()


def _output(audio: str) -> Path:
    """Under the folder of outputs, without an extension."""
    path = Path(audio).with_suffix("")
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path
