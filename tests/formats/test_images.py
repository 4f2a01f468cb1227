from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import IMAGE_SUFFIXES, read_image


def bgr(pixels):
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]


def write_pillow(path, pixels, **options):
    Pillow.fromarray(pixels).save(path, **options)


def write_opencv(path, pixels):
    assert cv2.imwrite(str(path), bgr(pixels) if pixels.ndim == 3 else pixels)


# name, dtype, channels written, writer, channels expected
STORED_EXACTLY = [
    ("grey8.png", "u1", (), write_pillow, ()),
    ("grey16.png", "u2", (), write_pillow, ()),
    ("bits.png", "?", (), write_pillow, ()),
    ("rgb8.png", "u1", (3,), write_pillow, (3,)),
    ("rgba8.png", "u1", (4,), write_pillow, (3,)),
    ("grey_alpha8.png", "u1", (2,), write_pillow, ()),
    ("grey8_opencv.png", "u1", (), write_opencv, ()),
    ("grey16_opencv.png", "u2", (), write_opencv, ()),
    ("rgb8_opencv.png", "u1", (3,), write_opencv, (3,)),
    ("rgb16.png", "u2", (3,), write_opencv, (3,)),
    ("rgba16.png", "u2", (4,), write_opencv, (3,)),
    ("grey8.bmp", "u1", (), write_pillow, ()),
    ("bits.bmp", "?", (), write_pillow, ()),
    ("rgb8.bmp", "u1", (3,), write_pillow, (3,)),
    ("rgb8_opencv.bmp", "u1", (3,), write_opencv, (3,)),
    ("rgba8_opencv.bmp", "u1", (4,), write_opencv, (3,)),
    ("UPPER.PNG", "u1", (3,), write_pillow, (3,)),
]


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "writer", "expected"),
    STORED_EXACTLY,
    ids=[case[0] for case in STORED_EXACTLY],
)
def test_lossless_pixels_come_back(tmp_path, samples, name, dtype, channels, writer, expected):
    pixels = samples.of(dtype, *channels)
    writer(tmp_path / name, pixels)

    image = read_image(tmp_path / name)

    if expected != channels:
        pixels = pixels[..., 0] if expected == () else pixels[..., : expected[0]]
    np.testing.assert_array_equal(image.pixels, pixels, strict=True)
    assert image.path == tmp_path / name
    assert image.pixel_size_um is None


@pytest.mark.parametrize("colour_type", ["grey_alpha", "rgba"])
def test_deep_png_with_alpha_keeps_16_bits_of_colour(tmp_path, samples, colour_type):
    # No library at hand writes 16-bit grey with alpha, so the chunks are put together here.
    import struct
    import zlib

    count, code = {"grey_alpha": (2, 4), "rgba": (4, 6)}[colour_type]
    pixels = samples.of("u2", count)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 16, code, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )

    expected = pixels[..., 0] if colour_type == "grey_alpha" else pixels[..., :3]
    np.testing.assert_array_equal(read_image(path).pixels, expected, strict=True)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_palette_becomes_its_colours(tmp_path, samples, suffix):
    picture = Pillow.fromarray(samples.of("u1", 3)).quantize(13)
    picture.save(tmp_path / f"palette.{suffix}")

    expected = np.asarray(picture.convert("RGB"))
    found = read_image(tmp_path / f"palette.{suffix}").pixels
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "rgb"])
def test_jpeg_is_decoded_without_rotation(tmp_path, samples, channels):
    smooth = cv2.GaussianBlur(samples.of("u1", *channels), (0, 0), 5)
    exif = Pillow.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to show
    write_pillow(tmp_path / "turned.jpg", smooth, quality=97, exif=exif)

    found = read_image(tmp_path / "turned.jpg").pixels

    assert found.dtype == np.uint8
    assert found.shape == smooth.shape
    assert np.abs(found.astype(int) - smooth).max() < 12


def test_content_decides_the_kind_not_the_suffix(tmp_path, samples):
    pixels = samples.of("u1", 3)
    write_pillow(tmp_path / "image.tif", pixels, format="PNG")

    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, pixels)


def test_pixels_are_writable_contiguous_and_native(tmp_path):
    np.save(tmp_path / "big.npy", np.arange(5 * 7, dtype=">u2").reshape(5, 7).T)

    pixels = read_image(str(tmp_path / "big.npy")).pixels

    assert pixels.dtype == np.dtype("=u2")
    assert pixels.dtype.isnative
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.arange(35).reshape(5, 7).T)


CHANNELS = [
    ("one", (5,), [3], lambda p: p[..., 3]),
    ("two_swapped", (5,), [4, 0], lambda p: p[..., [4, 0]]),
    ("of_rgb", (3,), [1], lambda p: p[..., 1]),
    ("of_grey", (), [0], lambda p: p),
]


@pytest.mark.parametrize(
    ("shape", "channels", "expected"), [c[1:] for c in CHANNELS], ids=[c[0] for c in CHANNELS]
)
def test_chosen_channels(tmp_path, samples, shape, channels, expected):
    pixels = samples.of("u2", *shape)
    np.save(tmp_path / "image.npy", pixels)

    found = read_image(tmp_path / "image.npy", channels=channels).pixels

    np.testing.assert_array_equal(found, expected(pixels), strict=True)


@pytest.mark.parametrize("channels", [[3], [-1], [], [0, 1, 2, 0, 1]], ids=str)
def test_channels_that_are_not_there(tmp_path, samples, channels):
    np.save(tmp_path / "image.npy", samples.of("u1", 3))
    with pytest.raises(InputError, match=r"no such choice of channels; got channels .* 0 to 2"):
        read_image(tmp_path / "image.npy", channels=channels)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: cannot open this file; got No such file"):
        read_image(tmp_path / "nowhere.png")


def test_folder(tmp_path):
    with pytest.raises(InputError, match="cannot open this file; got Is a directory"):
        read_image(tmp_path)


UNKNOWN = [
    ("empty.png", b"", "the file is empty; got 0 bytes"),
    ("text.tif", b"hello, world", r"not an image file of a known kind; got first bytes b'hello, "),
    ("movie.gif", b"GIF89a" + bytes(30), r"first bytes b'GIF89a\\x00"),
]


@pytest.mark.parametrize(("name", "data", "message"), UNKNOWN, ids=[c[0] for c in UNKNOWN])
def test_files_of_no_known_kind(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_animation_is_refused(tmp_path, samples):
    first, second = (Pillow.fromarray(samples.of("u1")) for _ in range(2))
    first.save(tmp_path / "frames.png", save_all=True, append_images=[second])
    with pytest.raises(InputError, match=r"an animation; got 2 frames; expected one plane\. Fix"):
        read_image(tmp_path / "frames.png")


WHOLE_FILES = {
    "grey8.png": lambda p, s: write_pillow(p, s.of("u1")),
    "grey16.png": lambda p, s: write_pillow(p, s.of("u2")),
    "rgb8.png": lambda p, s: write_pillow(p, s.of("u1", 3)),
    "rgb16.png": lambda p, s: write_opencv(p, s.of("u2", 3)),
    "palette.png": lambda p, s: Pillow.fromarray(s.of("u1", 3)).quantize(13).save(p),
    "grey.jpg": lambda p, s: write_pillow(p, s.of("u1")),
    "rgb.jpg": lambda p, s: write_pillow(p, s.of("u1", 3)),
    "progressive.jpg": lambda p, s: write_pillow(p, s.of("u1", 3), progressive=True),
    "grey.bmp": lambda p, s: write_pillow(p, s.of("u1")),
    "rgb.bmp": lambda p, s: write_pillow(p, s.of("u1", 3)),
    "rgb.npy": lambda p, s: np.save(p, s.of("f4", 3)),
    "plain.tif": lambda p, s: tifffile.imwrite(p, s.of("u2")),
    "strips.tif": lambda p, s: tifffile.imwrite(p, s.of("u1"), rowsperstrip=7),
    "deflate.tif": lambda p, s: tifffile.imwrite(p, s.of("u2"), compression="zlib"),
    "tiles.tif": lambda p, s: tifffile.imwrite(p, s.of("u2"), compression="zlib", tile=(16, 32)),
    "packbits.tif": lambda p, s: write_pillow(p, s.of("u1", 3), compression="packbits"),
    "lzw.tif": lambda p, s: write_pillow(p, s.of("u1", 3), compression="tiff_lzw"),
    "jpeg.tif": lambda p, s: write_pillow(p, s.of("u1", 3), compression="jpeg"),
    "lzw16.tif": lambda p, s: write_opencv(p, s.of("u2", 3)),
    "imagej_channels.tif": lambda p, s: tifffile.imwrite(
        p, np.moveaxis(s.of("u2", 3), 2, 0), imagej=True, metadata={"axes": "CYX"}
    ),
    "ome_channels.tif": lambda p, s: tifffile.imwrite(
        p, np.moveaxis(s.of("u2", 3), 2, 0), ome=True, metadata={"axes": "CYX"}
    ),
    "ome_deflate.tif": lambda p, s: tifffile.imwrite(
        p, np.moveaxis(s.of("u2", 2), 2, 0), ome=True, metadata={"axes": "CYX"}, compression="zlib"
    ),
    "big.tif": lambda p, s: tifffile.imwrite(
        p, np.moveaxis(s.of("u2", 2), 2, 0), metadata={"axes": "CYX"}, bigtiff=True
    ),
}


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_file_cut_off_is_an_error(tmp_path, samples, name, kept):
    path = tmp_path / name
    WHOLE_FILES[name](path, samples)
    assert read_image(path).pixels.shape[:2] == (61, 83)
    data = path.read_bytes()

    path.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(InputError, match=r"cut off|cannot be decoded") as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_damaged_png_is_an_error(tmp_path, samples):
    path = tmp_path / "image.png"
    write_pillow(path, samples.of("u1", 3))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match="this PNG file is cut off or damaged; got OSError"):
        read_image(path)


def test_suffixes_are_lower_case_and_start_with_a_dot():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)
    assert ".nii.gz" in IMAGE_SUFFIXES


def test_importing_formats_loads_no_image_library():
    heavy = "cv2 PIL tifffile nibabel scipy torch"
    code = (
        f"import sys, cellseg1_rt.formats; print([n for n in {heavy.split()} if n in sys.modules])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert run.stdout.strip() == "[]"
