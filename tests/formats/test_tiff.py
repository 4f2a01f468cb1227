from __future__ import annotations

import logging
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image
from cellseg1_rt.formats.tiff_structure import cut_off_part


def first(pixels):
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


# id, dtype, channels, axes order of the array written, options of the writer
STORED_EXACTLY = [
    ("bits", "?", (), None, {}),
    ("grey8", "u1", (), None, {}),
    ("grey16", "u2", (), None, {}),
    ("grey32", "u4", (), None, {}),
    ("signed16", "i2", (), None, {}),
    ("signed32", "i4", (), None, {}),
    ("float32", "f4", (), None, {}),
    ("float64", "f8", (), None, {}),
    ("big_endian", "u2", (), None, {"byteorder": ">"}),
    ("big_tiff", "u2", (), None, {"bigtiff": True}),
    ("rgb8", "u1", (3,), None, {"photometric": "rgb"}),
    ("rgb16", "u2", (3,), None, {"photometric": "rgb"}),
    ("planar_rgb", "u1", (3,), first, {"photometric": "rgb", "planarconfig": "separate"}),
    ("deflate", "u2", (), None, {"compression": "zlib"}),
    ("predictor", "u2", (3,), None, {"compression": "zlib", "photometric": "rgb", "predictor": 2}),
    ("tiles", "u1", (3,), None, {"compression": "zlib", "photometric": "rgb", "tile": (16, 32)}),
    ("strips", "u1", (), None, {"rowsperstrip": 7}),
    ("two_samples", "u1", (2,), None, {"photometric": "minisblack", "planarconfig": "contig"}),
    ("imagej_grey", "u2", (), None, {"imagej": True}),
    ("imagej_rgb", "u1", (3,), None, {"imagej": True}),
    ("imagej_2", "u2", (2,), first, {"imagej": True, "metadata": {"axes": "CYX"}}),
    ("imagej_3", "f4", (3,), first, {"imagej": True, "metadata": {"axes": "CYX"}}),
    ("imagej_4", "u1", (4,), first, {"imagej": True, "metadata": {"axes": "CYX"}}),
    ("ome_grey", "u2", (), None, {"ome": True}),
    ("ome_rgb", "u1", (3,), None, {"ome": True, "photometric": "rgb"}),
    ("ome_3", "u2", (3,), first, {"ome": True, "metadata": {"axes": "CYX"}}),
    ("named_axes", "u1", (2,), first, {"metadata": {"axes": "CYX"}}),
]


@pytest.mark.parametrize(
    ("dtype", "channels", "order", "options"),
    [case[1:] for case in STORED_EXACTLY],
    ids=[case[0] for case in STORED_EXACTLY],
)
def test_samples_come_back_with_channels_last(tmp_path, samples, dtype, channels, order, options):
    pixels = samples.of(dtype, *channels)
    stored = pixels if order is None else order(pixels)
    tifffile.imwrite(tmp_path / "image.tif", stored, **options)

    found = read_image(tmp_path / "image.tif").pixels

    np.testing.assert_array_equal(found, pixels, strict=True)


def test_leading_axes_of_length_one_are_dropped(tmp_path, samples):
    pixels = samples.of("u2")
    tifffile.imwrite(tmp_path / "a.tif", pixels[None, None], imagej=True, metadata={"axes": "TZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize(
    ("channels", "photometric", "kept"),
    [(2, "minisblack", 1), (4, "rgb", 3)],
    ids=["grey", "rgb"],
)
def test_alpha_is_dropped(tmp_path, samples, channels, photometric, kept):
    pixels = samples.of("u2", channels)
    tifffile.imwrite(
        tmp_path / "image.tif",
        pixels,
        photometric=photometric,
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    expected = pixels[..., 0] if kept == 1 else pixels[..., :kept]
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, expected, strict=True)


def test_palette_becomes_its_colours(tmp_path, samples):
    indices = samples.of("u1")
    colours = np.random.default_rng(3).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", indices, photometric="palette", colormap=colours * 257)
    expected = np.moveaxis(colours[:, indices], 0, 2).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, expected, strict=True)


def test_full_resolution_of_a_pyramid(tmp_path, samples):
    pixels = samples.of("u1")
    with tifffile.TiffWriter(tmp_path / "image.ome.tif", ome=True) as tif:
        tif.write(pixels, subifds=1)
        tif.write(pixels[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "image.ome.tif").pixels, pixels)


def test_white_is_zero_is_read_as_stored(tmp_path, samples):
    pixels = samples.of("u1")
    tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, pixels)


PILLOW_LZW = [("u1", ()), ("u1", (3,)), ("u2", ()), ("i4", ()), ("f4", ())]


@pytest.mark.parametrize(("dtype", "channels"), PILLOW_LZW, ids=str)
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressions_of_libtiff(tmp_path, samples, dtype, channels, compression):
    pixels = samples.of(dtype, *channels)
    Pillow.fromarray(pixels).save(tmp_path / "image.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, pixels, strict=True)


@pytest.mark.parametrize(
    ("dtype", "channels"), [("u2", (3,)), ("u2", (4,)), ("f4", (3,)), ("u2", ())], ids=str
)
def test_lzw_by_opencv_keeps_all_bits(tmp_path, samples, dtype, channels):
    pixels = samples.of(dtype, *channels)
    stored = pixels[..., [2, 1, 0, *range(3, channels[0])]] if channels else pixels
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    assert cv2.imwrite(str(tmp_path / "image.tif"), stored, options)
    with tifffile.TiffFile(tmp_path / "image.tif") as tif:
        assert tif.pages[0].compression == tifffile.COMPRESSION.LZW

    found = read_image(tmp_path / "image.tif").pixels

    np.testing.assert_array_equal(found, pixels[..., :3] if channels else pixels, strict=True)


def test_a_decoder_that_drops_bits_is_noticed(tmp_path, samples, monkeypatch):
    pixels = samples.of("u2", 3)
    path = tmp_path / "image.tif"
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    shallow = (pixels >> 8).astype(np.uint8)
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: shallow)
    with pytest.raises(InputError, match=r"LZW.*decoded as uint8 instead of uint16.*imagecodecs"):
        read_image(path)


def test_missing_pixels_are_counted(tmp_path, samples):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, samples.of("u2"), tile=(16, 32))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    size = len(data)
    with pytest.raises(
        InputError, match=f"cut off; got pixels up to byte {size:,} of {size - 1:,}"
    ):
        read_image(path)


def test_lzw_channel_pages(tmp_path, samples):
    pixels = samples.of("u2", 3)
    planes = [Pillow.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(3)]
    planes[0].save(
        tmp_path / "image.tif",
        save_all=True,
        append_images=planes[1:],
        compression="tiff_lzw",
        description="ImageJ=1.54f\nimages=3\nchannels=3\n",
    )
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, pixels, strict=True)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_models_become_rgb(tmp_path, samples, mode):
    picture = Pillow.fromarray(samples.of("u1", 3)).convert(mode)
    picture.save(tmp_path / "image.tif")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, expected, strict=True)


def test_undecodable_compression_is_named(tmp_path, samples):
    Pillow.fromarray(samples.of("?")).save(tmp_path / "fax.tif", compression="group4")
    data = bytearray((tmp_path / "fax.tif").read_bytes())
    # Compression (tag 259) from CCITT group 4 to JPEG 2000, which nothing at hand decodes.
    entry = data.index(struct.pack("<HHI", 259, 3, 1))
    data[entry + 8 : entry + 10] = struct.pack("<H", 33003)
    (tmp_path / "fax.tif").write_bytes(data)

    with pytest.raises(
        InputError,
        match=r"cannot be decoded; got compression APERIO_JP2000_YCBC, colour model MINISBLACK "
        r".*Fix: save it without compression, or: pip install imagecodecs",
    ):
        read_image(tmp_path / "fax.tif")


def test_inverted_fax_is_refused_rather_than_inverted(tmp_path, samples):
    picture = Pillow.fromarray(samples.of("?"))
    picture.save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: 0})
    with pytest.raises(InputError, match="compression CCITTFAX4, colour model MINISWHITE"):
        read_image(tmp_path / "fax.tif")


STACKS = [
    ("z", (5,), {"imagej": True, "metadata": {"axes": "ZYX"}}, "5 planes in 5 pages, axes ZYX"),
    ("t", (5,), {"ome": True, "metadata": {"axes": "TYX"}}, "5 planes in 5 pages, axes TYX"),
    ("unnamed", (3,), {"photometric": "minisblack"}, "3 planes in 3 pages, axes QYX"),
    ("tc", (2, 3), {"imagej": True, "metadata": {"axes": "TCYX"}}, "2 planes in 6 pages, axes TC"),
]


@pytest.mark.parametrize(
    ("leading", "options", "message"), [case[1:] for case in STACKS], ids=[c[0] for c in STACKS]
)
def test_stacks_are_refused_with_their_size(tmp_path, leading, options, message):
    stack = np.arange(np.prod(leading) * 7 * 11, dtype=np.uint16).reshape(*leading, 7, 11)
    tifffile.imwrite(tmp_path / "stack.tif", stack, **options)
    with pytest.raises(InputError, match=f"a stack of planes; got {message}.*expected one plane"):
        read_image(tmp_path / "stack.tif")


def test_images_of_different_sizes_are_refused(tmp_path, samples):
    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        tif.write(samples.of("u1"), metadata=None)
        tif.write(samples.of("u1")[:31], metadata=None)
    with pytest.raises(InputError, match="not one image; got 2 images in 2 pages"):
        read_image(tmp_path / "two.tif")


def test_too_many_channels_ask_for_a_choice(tmp_path, samples):
    pixels = samples.of("u1", 6)
    options = {"imagej": True, "metadata": {"axes": "CYX"}}
    tifffile.imwrite(tmp_path / "six.tif", first(pixels), **options)
    with pytest.raises(InputError, match=r"too many channels; got 6 channels.*Fix: choose"):
        read_image(tmp_path / "six.tif")
    found = read_image(tmp_path / "six.tif", channels=[5, 2]).pixels
    np.testing.assert_array_equal(found, pixels[..., [5, 2]])


def test_imagej_count_of_planes_must_be_met(tmp_path, samples):
    # ImageJ writes stacks above 4 GB with one directory; cut off, one plane would be left.
    tifffile.imwrite(
        tmp_path / "one.tif",
        samples.of("u2"),
        description="ImageJ=1.54f\nimages=3\nslices=3\n",
        metadata=None,
    )
    with pytest.raises(InputError, match="cut off; got fewer planes than the 3 that"):
        read_image(tmp_path / "one.tif")


def test_imagej_channels_under_one_directory(tmp_path, samples):
    pixels = samples.of("u2", 3)
    path = tmp_path / "image.tif"
    description = "ImageJ=1.54f\nimages=3\nchannels=3\n"
    tifffile.imwrite(path, pixels[..., 0], description=description, metadata=None)
    whole = path.read_bytes() + first(pixels[..., 1:]).tobytes()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path).pixels, pixels, strict=True)

    path.write_bytes(whole[:-2])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


def test_one_line_on_a_bad_file_and_nothing_else(tmp_path, samples, capfd):
    tifffile.imwrite(tmp_path / "image.tif", samples.of("u2"), compression="zlib")
    data = bytearray((tmp_path / "image.tif").read_bytes())
    data[-700:] = bytes(700)
    (tmp_path / "image.tif").write_bytes(data)
    with pytest.raises(InputError, match="this TIFF file is cut off or damaged"):
        read_image(tmp_path / "image.tif")
    assert capfd.readouterr() == ("", "")
    handlers = logging.getLogger("tifffile").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


SIZES = [
    ("imagej_micron", {"imagej": True, "metadata": {"unit": "micron"}}, (2.0, 4.0), (0.25, 0.5)),
    ("imagej_um", {"imagej": True, "metadata": {"unit": "um"}}, (2.0, 4.0), (0.25, 0.5)),
    ("imagej_escaped", {"imagej": True, "metadata": {"unit": "\\u00B5m"}}, (2, 4), (0.25, 0.5)),
    ("imagej_nm", {"imagej": True, "metadata": {"unit": "nm"}}, (0.002, 0.004), (0.25, 0.5)),
    ("imagej_pixel", {"imagej": True, "metadata": {"unit": "pixel"}}, (2.0, 4.0), None),
    ("imagej_inch", {"imagej": True, "metadata": {"unit": "inch"}}, (72.0, 72.0), None),
    ("imagej_none", {"imagej": True}, (2.0, 4.0), None),
    ("cm", {"resolutionunit": "CENTIMETER"}, (20_000, 40_000), (0.25, 0.5)),
    ("inch", {"resolutionunit": "INCH"}, (50_800, 101_600), (0.25, 0.5)),
    ("no_unit", {"resolutionunit": "NONE"}, (2.0, 4.0), None),
    ("72_dpi", {"resolutionunit": "INCH"}, (72.0, 72.0), None),
    ("96_dpi_in_cm", {"resolutionunit": "CENTIMETER"}, (37.8, 37.8), None),
    ("600_dpi", {"resolutionunit": "INCH"}, (600, 600), None),
]


@pytest.mark.parametrize(
    ("options", "resolution", "expected"), [case[1:] for case in SIZES], ids=[c[0] for c in SIZES]
)
def test_pixel_size_from_tags(tmp_path, options, resolution, expected):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((5, 7), np.uint8), resolution=resolution, **options)
    size = read_image(path).pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-6))


OME_SIZES = [
    ("default_unit", {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, (0.25, 0.5)),
    (
        "nm",
        {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}
        | {"PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "\u00b5m"},
        (0.25, 0.5),
    ),
    ("only_x", {"PhysicalSizeX": 0.5}, None),
    (
        "unknown_unit",
        {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "pixel"}
        | {"PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "pixel"},
        None,
    ),
]


@pytest.mark.parametrize(
    ("metadata", "expected"), [c[1:] for c in OME_SIZES], ids=[c[0] for c in OME_SIZES]
)
def test_pixel_size_from_ome(tmp_path, metadata, expected):
    path = tmp_path / "image.ome.tif"
    tifffile.imwrite(path, np.zeros((5, 7), np.uint8), metadata=metadata)
    size = read_image(path).pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
def test_structure_check_finds_each_cut_through_a_directory(tmp_path, options):
    path = tmp_path / "image.tif"
    planes = np.zeros((2, 5, 7), np.uint8)
    tifffile.imwrite(path, planes, metadata={"axes": "CYX"}, **options)
    data = path.read_bytes()
    assert cut_off_part(path) is None
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[1].offset

    for cut in range(start - 3, len(data), 11):
        path.write_bytes(data[:cut])
        assert "directory" in (cut_off_part(path) or "")
