"""Small images, and a stand-in for Ollama with a model that sees them."""

import base64
import hashlib
import struct
import zlib

from mochi_server.ollama.standin import Model, Reply, StandIn
from tests.tiny_models import tiny_models

SEEING, BLIND = "tiny-vision", "tiny"

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////"
    "////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AN//Z"
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
SMALLEST_GIF = base64.b64decode("R0lGODlhAQABAAD/ACwAAAAAAQABAAACADs=")
WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
LOSSLESS_WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")


def png(shade: int = 0, filler: int = 0) -> bytes:
    """A PNG of one grey pixel, of which there are 65,536; as many bytes longer as are asked for."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 0, 0, 0, 0)
    more = chunk(b"teXt", b"x" * (filler - 12)) if filler else b""
    pixel = zlib.compress(b"\0" + struct.pack(">H", shade))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def base64_of(*images: bytes) -> list[str]:
    """What a request has of them, and what Ollama is sent."""
    return [base64.b64encode(one).decode() for one in images]


def digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def references(*images: bytes) -> list[str]:
    """What a message has of them."""
    return [f"sha256:{digest(one)}" for one in images]


def seeing_model() -> Model:
    """A model that sees."""
    return Model(
        name=f"{SEEING}:latest",
        reply=lambda _call: Reply(pieces=("I", " see", ".")),
        digest="5ee" + "0" * 61,
        capabilities=("completion", "vision"),
        context_length=32_768,
    )


def seeing_standin() -> StandIn:
    """The tiny models, and one that sees."""
    return StandIn([*tiny_models(), seeing_model()])
