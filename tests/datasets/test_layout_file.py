"""Files that are no layout are refused by their header, before anything is decoded."""

import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers import ROOT, random_layout
from imginav_jax.datasets.layout_file import decode_layout, inspect_layout, read_layout
from imginav_jax.datasets.pictures import read_images
from imginav_jax.system.errors import UserError


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def png(width, height, depth, color_type, data):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_pixels_come_back_unchanged(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = read_layout(save(tmp_path / "a.png", image), 32)
    np.testing.assert_array_equal(decode_layout(tmp_path / "a.png", content), image)


def test_equal_pixels_have_equal_digests_whatever_their_compression(tmp_path):
    image = random_layout(32)
    first = read_layout(save(tmp_path / "a.png", image, compress_level=1), 32)
    second = read_layout(save(tmp_path / "b.png", image, compress_level=9), 32)
    assert first != second
    assert inspect_layout(tmp_path, first) == inspect_layout(tmp_path, second)


def test_off_palette_pixels_are_counted(tmp_path):
    image = random_layout(32)
    image[3, 4:7] = (1, 2, 3)
    assert inspect_layout(tmp_path, read_layout(save(tmp_path / "a.png", image), 32)).off_palette == 3


BAD = {
    "nothing": (b"", "is empty"),
    "text": (b"hello, this is no image", "is not a PNG"),
    "cut header": (png(32, 32, 8, 2, b"")[:20], "truncated PNG"),
    "other size": (png(64, 32, 8, 2, b""), r"is 64x32, expected 32x32 \(data\.image_size\)"),
    "alpha": (png(32, 32, 8, 6, b""), "8-bit RGB with alpha pixels, expected 8-bit RGB"),
    "sixteen bits": (png(32, 32, 16, 2, b""), "16-bit RGB pixels, expected 8-bit RGB"),
    "gray": (png(32, 32, 8, 0, b""), "8-bit gray pixels"),
    "palette": (png(32, 32, 8, 3, b""), "8-bit palette pixels"),
    "huge file": (png(32, 32, 8, 2, b"") + bytes(2**22), "too much for 32x32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_headers_are_named(tmp_path, kind):
    content, message = BAD[kind]
    path = tmp_path / "layout.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"layout\.png.*{message}"):
        read_layout(path, 32)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"a\.png does not exist"):
        read_layout(tmp_path / "a.png", 32)
    with pytest.raises(UserError, match="cannot be read"):
        read_layout(tmp_path, 32)


def test_damaged_pixels_are_found(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = read_layout(save(tmp_path / "a.png", image), 32)
    for damaged in (content[: len(content) // 2], png(32, 32, 8, 2, b"short"), content[:60] + b"XX" + content[62:]):
        with pytest.raises(UserError, match="truncated or damaged"):
            inspect_layout(tmp_path / "a.png", damaged)


def test_a_transparent_colour_is_refused(tmp_path):
    path = save(tmp_path / "a.png", random_layout(32), transparency=(240, 240, 240))
    with pytest.raises(UserError, match="transparent"):
        inspect_layout(path, read_layout(path, 32))


def test_a_huge_image_costs_no_memory(tmp_path):
    # 30,000 x 30,000 pixels of one colour: 2.7 GB decoded, a few MB on disk.
    path = tmp_path / "huge.png"
    path.write_bytes(png(30000, 30000, 8, 2, bytes(2**20)))
    program = f"""
import pathlib, resource
from imginav_jax.datasets.layout_file import read_layout
from imginav_jax.system.errors import UserError
from imginav_jax.datasets.pictures import read_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_layout(pathlib.Path({str(path)!r}), 512)
except UserError as error:
    assert "30000x30000" in str(error), error
else:
    raise SystemExit("accepted")
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_second_header_is_refused_before_anything_is_decoded(tmp_path):
    plain = save(tmp_path / "a.png", random_layout(32)).read_bytes()
    larger = png(6000, 6000, 8, 2, bytes(6000 * 18001))  # 103 MiB, in 103 kB
    # Behind the real header, and with the larger image's pixels in the place of the small one's.
    (tmp_path / "b.png").write_bytes(plain[:33] + larger[8:])
    content = read_layout(tmp_path / "b.png", 32)
    tracemalloc.start()
    try:
        for read in (
            lambda: inspect_layout(tmp_path / "b.png", content),
            lambda: read_images([tmp_path / "b.png"], 32),
        ):
            with pytest.raises(UserError, match=r"b\.png is truncated or damaged: it has a second header"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    (tmp_path / "b.png").write_bytes(plain[:33] + HARMLESS["many texts"] + larger[8:])
    with pytest.raises(UserError, match=r"b\.png cannot be read: it has a second header"):
        read_layout(tmp_path / "b.png", 32)


def test_another_size_than_the_headers_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    content = read_layout(save(tmp_path / "a.png", random_layout(32)), 32)
    monkeypatch.setattr(Image, "open", lambda *_, **__: Image.new("RGB", (64, 32)))  # whatever a PNG may trick it into
    with pytest.raises(UserError, match="it is 32x32 by its header and 64x32 to decode"):
        inspect_layout(tmp_path / "a.png", content)


def chunk(kind, content, checksum=None):
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


MANY = zlib.compress(bytes(2**24), 9)  # 16 kB that become 16 MiB
HARMLESS = {
    "a text": chunk(b"tEXt", b"note\0" + b"x" * 2**17),
    "a text larger than the pixels": chunk(b"tEXt", b"note\0" + b"x" * 2**23),
    "many texts": chunk(b"tEXt", b"note\0" + b"x" * 2**10) * 2**13,
    "a packed text": chunk(b"zTXt", b"note\0\0" + MANY),
    "an editor's text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MANY),
    "a packed text that is no such": chunk(b"zTXt", b"note\0\0garbage"),
    "a profile": chunk(b"iCCP", b"big\0\0" + MANY),
    "a damaged profile": chunk(b"iCCP", b"big\0\0" + MANY, 1),
    "a camera's": chunk(b"eXIf", b"MM\0*garbage"),
    "brightness and resolution": chunk(b"gAMA", struct.pack(">I", 45455))
    + chunk(b"pHYs", struct.pack(">IIB", 1, 2, 1)),
    "an empty animation": chunk(b"acTL", struct.pack(">II", 0, 0)),
}


def with_chunk(content, added, place):
    """Behind the header or before the end."""
    at = 33 if place == "header" else len(content) - 12
    return content[:at] + added + content[at:]


@pytest.mark.parametrize("place", ["header", "end"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_decides_no_pixel_does_no_harm(tmp_path, kind, place):
    image = random_layout(32)
    plain = save(tmp_path / "a.png", image).read_bytes()
    (tmp_path / "b.png").write_bytes(with_chunk(plain, HARMLESS[kind], place))
    content = read_layout(tmp_path / "b.png", 32)
    assert inspect_layout(tmp_path / "b.png", content) == inspect_layout(tmp_path / "a.png", plain)
    np.testing.assert_array_equal(decode_layout(tmp_path / "a.png", content), image)
    np.testing.assert_array_equal(read_images([tmp_path / "b.png"], 32)[0], image)


def test_a_wrong_checksum_of_pixels_is_damage(tmp_path):
    plain = save(tmp_path / "a.png", random_layout(32)).read_bytes()
    at = plain.index(b"IEND") - 8  # of the last IDAT
    damaged = plain[:at] + bytes(4) + plain[at + 4 :]
    for content in (damaged, with_chunk(damaged, HARMLESS["a text larger than the pixels"], "header")):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.png .*the checksum of its chunk 'IDAT' is wrong"):
            inspect_layout(tmp_path / "b.png", read_layout(tmp_path / "b.png", 32))


def test_a_file_of_pixels_without_end_is_still_too_large(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    plain = save(tmp_path / "a.png", image).read_bytes()
    (tmp_path / "b.png").write_bytes(with_chunk(plain, chunk(b"IDAT", bytes(2**22)), "end"))
    with pytest.raises(UserError, match="too much for 32x32"):
        read_layout(tmp_path / "b.png", 32)
