"""The alignd client: alignment of log-probabilities, attention and audio from Python.

`AlignClient` is the way in; `alignd_client.aio.AsyncAlignClient` is the same for asyncio.
"""

from alignd.wire import STAR, ItemCode, ItemStatus, ServerInfo
from alignd_client.attention import AttentionAlignment
from alignd_client.client import AlignClient
from alignd_client.errors import (
    AlignError,
    ClientClosedError,
    DeadlineExceededError,
    ForkError,
    InvalidItemError,
    InvalidItemsError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
)
from alignd_client.posteriors import Posteriors
from alignd_client.results import Alignment, AlignmentItem, AudioAlignment, CtcAlignment, TokenSpan
from alignd_client.transducer import TransducerAlignment

__version__ = "0.1.0"

__all__ = [
    "STAR",
    "AlignClient",
    "AlignError",
    "Alignment",
    "AlignmentItem",
    "AttentionAlignment",
    "AudioAlignment",
    "ClientClosedError",
    "CtcAlignment",
    "DeadlineExceededError",
    "ForkError",
    "InvalidItemError",
    "InvalidItemsError",
    "InvalidRequestError",
    "ItemCode",
    "ItemStatus",
    "MessageTooLargeError",
    "OverloadedError",
    "Posteriors",
    "ServerError",
    "ServerInfo",
    "ServerUnavailableError",
    "TokenSpan",
    "TransducerAlignment",
]
