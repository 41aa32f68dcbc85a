"""Which bytes are an image, whatever anybody says that they are."""

import pytest

from mochi_server.domain.images import described, digest_of, image, is_whole, media_type
from tests.pictures import GIF, JPEG, LOSSLESS_WEBP, SMALLEST_GIF, WEBP, png

WHOLE = {
    "PNG": (png(), "image/png"),
    "PNG with more in it": (png(filler=100), "image/png"),
    "PNG with more behind it": (png() + b"more", "image/png"),
    "JPEG": (JPEG, "image/jpeg"),
    "JPEG with bytes to fill up with": (JPEG[:2] + b"\xff\xff\xff" + JPEG[2:], "image/jpeg"),
    "JPEG without its end": (JPEG[:-2], "image/jpeg"),
    "GIF": (GIF, "image/gif"),
    "GIF of the first version": (GIF.replace(b"89a", b"87a"), "image/gif"),
    "the smallest GIF": (SMALLEST_GIF, "image/gif"),
    "WebP": (WEBP, "image/webp"),
    "lossless WebP": (LOSSLESS_WEBP, "image/webp"),
    "extended WebP": (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 10, "image/webp"),
}


@pytest.mark.parametrize(("data", "kind"), WHOLE.values(), ids=WHOLE)
def test_an_image_is_known_by_its_content(data: bytes, kind: str) -> None:
    assert media_type(data) == kind
    assert is_whole(data)


# Of a JPEG's scan, and behind a GIF's first picture, more or less cannot be told apart.
@pytest.mark.parametrize(
    ("data", "needed"),
    [(png(), len(png())), (JPEG, 157), (GIF, 41), (WEBP, 41), (LOSSLESS_WEBP, 33)],
    ids=["PNG", "JPEG", "GIF", "WebP", "lossless WebP"],
)
def test_an_image_that_is_cut_short_is_none(data: bytes, needed: int) -> None:
    assert [cut for cut in range(len(data)) if is_whole(data[:cut])] == list(range(needed, len(data)))


BROKEN = {
    "a PNG without width": png().replace(b"IHDR\0\0\0\1", b"IHDR\0\0\0\0"),
    "a PNG whose header is not the first": png()[:8] + png()[33:],
    "a PNG without image data": png()[:33] + png()[-12:],
    "a PNG with a chunk of four gigabytes": png()[:33] + b"\xff\xff\xff\xff" + png()[37:],
    "a JPEG without a frame": JPEG.replace(b"\xff\xc0", b"\xff\xe1"),
    "a JPEG with a segment of no length": b"\xff\xd8\xff\xe0\0\0" + JPEG[20:],
    "a JPEG of nothing but filling": b"\xff\xd8" + b"\xff" * 300_000,
    "a JPEG that ends before its scan": b"\xff\xd8\xff\xd9" + JPEG[4:],
    "a GIF with no picture": b"GIF89a" + b"\0" * 7 + b";",
    "a GIF of nothing but comments": b"GIF89a" + b"\0" * 7 + b"!\xfe\0" * 300_000,
    "a WebP of no known form": WEBP.replace(b"VP8 ", b"VP9 "),
    "a WAVE": WEBP.replace(b"WEBP", b"WAVE"),
    "no bytes": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_only_begins_as_an_image_is_none(data: bytes) -> None:
    assert not is_whole(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"BM\x00\x00", "a BMP image"),
        (b"II*\x00", "a TIFF image"),
        (b"\0\0\0\x18ftypheic", "a HEIC image"),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (b"\xef\xbb\xbf <SVG width='1'>", "an SVG drawing"),
        (b'<?xml version="1.0"?><svg/>', "an SVG drawing"),
        ("Grüße\n".encode(), "text"),
        (b"\x00\x01\x02", "no image that is known here"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(data: bytes, what: str) -> None:
    assert media_type(data) is None
    assert described(data) == what


def test_an_image_is_named_by_its_bytes() -> None:
    one = image(b"abc")
    assert one.reference == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of(one.reference) == one.digest


@pytest.mark.parametrize(
    "text", ["", "cat.png", "a" * 64, f"sha256:{'A' * 64}", f"sha256:{'a' * 63}", f"sha256:{'a' * 64}\n"]
)
def test_another_text_is_no_reference(text: str) -> None:
    assert digest_of(text) is None
