"""Why a recording or its transcript cannot be aligned, and what is said when the packages for audio are missing."""

import importlib
import importlib.util
from types import ModuleType
from typing import Final

from alignd_kernels.status import Status

PACKAGES: Final = ("hama", "num2words", "soundfile", "soxr")
"""What the extra `alignd-server[audio]` brings."""


class AudioError(Exception):
    """Base of all that is wrong with one AlignAudio item.

    Attributes:
        status: the item's `Status`.
        field: the field of the request that is at fault: "audio" or "transcript".
        message: one sentence for people.
    """

    def __init__(self, status: Status, field: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.message = message


class UnreadableAudioError(AudioError):
    """The bytes are no whole recording that can be decoded."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.AUDIO_UNREADABLE, "audio", message)


class LongAudioError(AudioError):
    """The recording is longer than is taken."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.AUDIO_TOO_LONG, "audio", message)


class SilentAudioError(AudioError):
    """The recording has no sound."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.AUDIO_SILENT, "audio", message)


class EmptyTranscriptError(AudioError):
    """The transcript has no words."""

    def __init__(self) -> None:
        super().__init__(Status.EMPTY, "transcript", "the transcript has no words")


class TextUnsupportedError(AudioError):
    """The transcript holds something that the model's language cannot pronounce; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.TEXT_UNSUPPORTED, "transcript", message)


class LongTranscriptError(AudioError):
    """The transcript has more sounds than any recording that the model takes has frames."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.TOO_FEW_FRAMES, "transcript", message)


class MissingExtraError(ImportError):
    """A package for audio is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"AlignAudio needs the package {package}: pip install 'alignd-server[audio]'", name=package)


def missing_packages() -> list[str]:
    """Names of the packages for audio that are not installed. Nothing is imported."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is None]


def require(package: str) -> ModuleType:
    """Import a package of the extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(package) from None
