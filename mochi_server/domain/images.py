"""Images: what they are called, and what kind of image some bytes are, whatever anybody says that they are."""

import hashlib
import re

import msgspec

PREFIX = "sha256:"
_REFERENCE = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})\Z")

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")

MOST_PARTS = 200_000
"""How many chunks, segments or blocks of an image are looked at; none that is meant to be seen has as many."""


class Image(msgspec.Struct, frozen=True):
    """An image's bytes, and their SHA-256 as 64 lowercase hex digits."""

    digest: str
    data: bytes

    @property
    def reference(self) -> str:
        """What a message has of it."""
        return PREFIX + self.digest


def image(data: bytes) -> Image:
    """The image that these bytes are."""
    return Image(hashlib.sha256(data).hexdigest(), data)


def digest_of(reference: str) -> str | None:
    """The digest in a reference; None for a text that is none, as somebody may have written it into a file."""
    match = _REFERENCE.match(reference)
    return match["digest"] if match else None


def media_type(head: bytes) -> str | None:
    """What the first bytes say: one of `MEDIA_TYPES`, or None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_whole(data: bytes) -> bool:
    """Whether what begins as one of the four kinds goes on as one, as far as can be told without decoding it."""
    match media_type(data):
        case "image/png":
            return _is_png(data)
        case "image/jpeg":
            return _is_jpeg(data)
        case "image/gif":
            return _is_gif(data)
        case "image/webp":
            return _is_webp(data)
    return False


def described(data: bytes) -> str:
    """What bytes that are none of the four kinds are, in a word or two."""
    for magic, start, word in _OTHERS:
        if data[start : start + len(magic)] == magic:
            return word
    text = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing"
    return "text" if data and all(byte >= 0x20 or byte in b"\t\r\n" for byte in text) else "no image that is known here"


_OTHERS = (
    (b"%PDF-", 0, "a PDF document"),
    (b"BM", 0, "a BMP image"),
    (b"II*\0", 0, "a TIFF image"),
    (b"MM\0*", 0, "a TIFF image"),
    (b"ftypavif", 4, "an AVIF image"),
    (b"ftyphei", 4, "a HEIC image"),
    (b"ftypmif1", 4, "a HEIC image"),
    (b"\xff\x0a", 0, "a JPEG XL image"),
    (b"PK\x03\x04", 0, "a ZIP archive"),
)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _is_png(data: bytes) -> bool:
    """A header with a size, image data, and every chunk whole up to the end chunk."""
    at, has_data = 8, False
    for _ in range(MOST_PARTS):
        length, name = _number(data, at, 4), data[at + 4 : at + 8]
        has_size = _number(data, at + 8, 4) > 0 and _number(data, at + 12, 4) > 0
        if at == 8 and not (name == b"IHDR" and length == 13 and has_size):
            return False
        at += 12 + length
        if at > len(data):
            return False
        has_data |= name == b"IDAT"
        if name == b"IEND":
            return has_data
    return False


def _is_jpeg(data: bytes) -> bool:
    """Whole segments, one of them with the size of the frame, up to a scan with something in it.

    What follows is left to who decodes it: many cameras put more behind the end, and some leave the end out.
    """
    at, has_frame = 2, False
    for _ in range(MOST_PARTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF:  # a byte to fill up with
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        length = _number(data, at + 2, 2)
        end = at + 2 + length
        if marker == 0xD9 or length < 2 or end > len(data):
            return False
        if marker == 0xDA:
            return has_frame and end < len(data)
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            # A height of 0 is told later, by the scan.
            has_frame = length >= 11 and _number(data, at + 7, 2) > 0
        at = end
    return False


def _is_gif(data: bytes) -> bool:
    """Whole blocks up to the end of the first picture."""
    if len(data) < 13:
        return False
    at = 13 + _colours(data[10])
    for _ in range(MOST_PARTS):
        if data[at : at + 1] == b"!":
            after = _behind_blocks(data, at + 2)
        elif data[at : at + 1] == b"," and at + 10 < len(data):
            return _behind_blocks(data, at + 10 + _colours(data[at + 9]) + 1) is not None
        else:
            return False
        if after is None:
            return False
        at = after
    return False


def _colours(flags: int) -> int:
    """The bytes of the table of colours that a GIF's flags tell of."""
    return 3 << ((flags & 0x07) + 1) if flags & 0x80 else 0


def _behind_blocks(data: bytes, at: int) -> int | None:
    """The place behind a GIF's blocks of data, of which the last is empty; None where they are cut short."""
    for _ in range(MOST_PARTS):
        if at >= len(data):
            return None
        if data[at] == 0:
            return at + 1
        at += 1 + data[at]
    return None


def _is_webp(data: bytes) -> bool:
    """As long as it says that it is, with a picture of one of the three forms."""
    told = int.from_bytes(data[4:8], "little")
    # Some writers count the byte that makes the size even, and leave it out.
    if told < 20 or 8 + told > len(data) + 1:
        return False
    match data[12:16]:
        case b"VP8 ":
            return data[23:26] == b"\x9d\x01\x2a"
        case b"VP8L":
            return data[20] == 0x2F
        case b"VP8X":
            return int.from_bytes(data[16:20], "little") >= 10
    return False
