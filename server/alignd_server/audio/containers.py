"""Whether a file is whole, told from its container where libsndfile (1.2.2) does not tell.

Measured, each format cut in half and cut by its last bytes:

- WAV: libsndfile cuts the declared length to the bytes that there are, without a word. The chunk's own length tells.
- OGG (Vorbis, Opus): it drops the incomplete page and takes the one before for the last. The flag that marks the end
  of the stream, which the last page must bear (RFC 3533, section 6), tells.
- FLAC: it fails to read, or yields fewer frames than the header declares; nothing is to be done here.
- MP3: it yields fewer frames than declared, and the declared number is meant only where the first frame is a Xing, Info
  or VBRI header. Else it is guessed from the first frame's bit rate and the file's size: at a constant rate the guess
  is good, and a cut cannot be told; at a variable one libsndfile drops what is beyond the guess.
"""

from typing import Final

UNKNOWN_SIZE: Final = 0x7FFF0000
"""A WAV chunk of this size or larger was written to a pipe, by a program that did not know its length yet."""

OGG_HEADER: Final = 27
OGG_END_OF_STREAM: Final = 4
MP3_TAG_WITHIN: Final = 200  # bytes from the first frame to its Xing, Info or VBRI mark: 36 at most, and some slack

# ISO/IEC 11172-3 and 13818-3, layer III, by the version's two bits (3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5).
MP3_KBITS: Final = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def wav_missing_bytes(data: bytes) -> int:
    """Bytes that the data chunk of a WAV file declares and the file does not have; 0 where its length is not known."""
    order = {b"RIFF": "little", b"RIFX": "big"}.get(data[:4])
    position = 12
    while order is not None and position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little" if order == "little" else "big")
        if data[position : position + 4] == b"data":
            return 0 if size >= UNKNOWN_SIZE else max(0, position + 8 + size - len(data))
        position += 8 + size + size % 2
    return 0


def ogg_is_whole(data: bytes) -> bool:
    """Whether the last page is complete and marked as the end of its stream."""
    position, ended = 0, False
    while data[position : position + 4] == b"OggS":
        header = data[position : position + OGG_HEADER]
        if len(header) < OGG_HEADER:
            return False
        segments = data[position + OGG_HEADER : position + OGG_HEADER + header[26]]
        position += OGG_HEADER + header[26] + sum(segments)
        if len(segments) < header[26] or position > len(data):
            return False
        ended = bool(header[5] & OGG_END_OF_STREAM)
    return ended


def mp3_declares_frames(data: bytes) -> bool:
    """Whether an MP3 file states its length, so that what is missing can be told."""
    start = _after_id3(data)
    first = data[start : start + MP3_TAG_WITHIN]
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def mp3_has_one_rate(data: bytes) -> bool:
    """Whether all frames of an MP3 file, as far as they follow one another, have one bit rate."""
    position = _after_id3(data)
    rates = set()
    while position + 4 <= len(data) and (frame := _mp3_frame(data[position : position + 4])):
        kbits, size = frame
        rates.add(kbits)
        position += size
    return len(rates) <= 1


def _mp3_frame(header: bytes) -> tuple[int, int] | None:
    """Bit rate (kbit/s) and size (bytes) of the frame with this header; None if it is no layer III frame's."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate, frequency, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if header[0] != 0xFF or header[1] < 0xE0 or version == 1 or layer != 1 or not 0 < rate < 15 or frequency == 3:
        return None
    kbits = MP3_KBITS[version][rate]
    return kbits, (144_000 if version == 3 else 72_000) * kbits // MP3_RATES[version][frequency] + padding


def _after_id3(data: bytes) -> int:
    """Where the frames of an MP3 file begin."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    a, b, c, d = data[6:10]  # seven bits a byte
    return 10 + (a << 21 | b << 14 | c << 7 | d)
