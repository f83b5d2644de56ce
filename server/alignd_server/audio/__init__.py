"""The audio stage: encoded recordings and transcripts to CTC's emissions and targets, and its paths to times.

Importing this costs NumPy; the packages of `alignd-server[audio]` and the model are loaded when they are first used.
"""

from alignd_server.audio.acoustic import AcousticModel, ModelDescription, Transcript, TranscriptWord
from alignd_server.audio.decode import decode
from alignd_server.audio.errors import AudioError, MissingExtraError, missing_packages
from alignd_server.audio.hama_model import HamaModel
from alignd_server.audio.pipeline import Utterance, listen, timed
from alignd_server.audio.timing import locate

__all__ = [
    "AcousticModel",
    "AudioError",
    "HamaModel",
    "MissingExtraError",
    "ModelDescription",
    "Transcript",
    "TranscriptWord",
    "Utterance",
    "decode",
    "listen",
    "locate",
    "missing_packages",
    "timed",
]
