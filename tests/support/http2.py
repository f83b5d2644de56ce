"""HTTP/2 by hand, for calls that a gRPC library would not make: half a message, a deadline that has passed."""

import socket
import struct
from types import TracebackType

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


class RawCall:
    """One gRPC call on a connection of its own. Its headers are sent; nothing is ever read."""

    def __init__(self, target: str, path: str, *, metadata: dict[str, str], timeout: str | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": target}
        headers |= {"te": "trailers", "content-type": "application/grpc"}
        if timeout is not None:
            headers["grpc-timeout"] = timeout
        block = b"".join(_literal(name, value) for name, value in (headers | metadata).items())
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, b"") + _frame(HEADERS, END_HEADERS, 1, block))

    def send(self, message: bytes, announced: int | None = None, *, end: bool = False) -> None:
        """A message of up to 16 KiB. `announced` is the length that its prefix claims; its own by default."""
        prefix = struct.pack(">BI", 0, len(message) if announced is None else announced)
        self._socket.sendall(_frame(DATA, END_STREAM if end else 0, 1, prefix + message))

    def vanish(self) -> None:
        """End the connection without a word of HTTP/2, as a client that dies does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> "RawCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """HPACK: a literal field that is not indexed, without Huffman (RFC 7541, 6.2.2); lengths below 127."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode("ascii") for part in (name, value))
