"""The gRPC channel: where it leads, with which options, and the few bytes of the health protocol."""

import importlib
import os
import re
import sys
from typing import Any, Final

from alignd_client.errors import ServerError

DEFAULT_TARGET: Final = "localhost:50051"
TARGET_VARIABLE: Final = "ALIGND_TARGET"

HEALTH_PATH: Final = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST: Final = b""
"""A `HealthCheckRequest` about the server as a whole.

Two messages of one field each do not earn the dependency grpcio-health-checking, which binds protobuf's version too.
"""

_HEALTH_NAMES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_LOOPBACK: Final = re.compile(r"(dns:/*)?(localhost|127\.[\d.]+|\[::1\])(:\d+)?$")
_HOST_AND_PORT: Final = re.compile(r"(?:\[[^\]]+\]|[^:/\[\]]+):(\d{1,9})")
_OF_GRPC: Final = re.compile(r"(?:dns|ipv4|ipv6|passthrough|unix|unix-abstract|vsock|xds):.")
"""The schemes of gRPC's names."""


def resolve_target(target: str | None) -> str:
    """The address to call: the argument, else ALIGND_TARGET, else localhost:50051."""
    if target is not None and not isinstance(target, str):
        raise TypeError(f"target must be a str like {DEFAULT_TARGET!r}, not {target!r}")
    found = target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
    port = _HOST_AND_PORT.fullmatch(found)
    if not (0 < int(port[1]) < 1 << 16 if port else _OF_GRPC.match(found)):
        raise ValueError(f"target must be host:port like {DEFAULT_TARGET!r}, not {found!r}")
    return found


def import_grpc(module: str = "grpc") -> Any:
    """gRPC, imported on first use: it doubles the time that importing this package takes."""
    if "grpc" not in sys.modules:
        # Older versions of gRPC survive a fork only if told so before they are imported.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
    return importlib.import_module(module)


def channel_options(target: str) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        # The limits that count are the server's, for requests and, of posteriors, for replies.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # gRPC's own retries end at 256 KiB and know no RetryInfo; ours are in `retry`.
        ("grpc.enable_retries", 0),
        # A server that comes back is found in fractions of a second, not in gRPC's up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Otherwise all channels of the process that lead to one target share one connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _LOOPBACK.match(target):
        # A proxy named in the environment cannot know this machine's localhost.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def decode_health(reply: bytes) -> str:
    """The name of a `HealthCheckResponse`'s status. Raises `ServerError` for anything else."""
    if not reply:
        return _HEALTH_NAMES[0]
    if len(reply) == 2 and reply[0] == 0x08 and reply[1] in _HEALTH_NAMES:
        return _HEALTH_NAMES[reply[1]]
    raise ServerError(f"the answer {reply[:16]!r} is no health status")
