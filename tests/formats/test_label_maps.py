from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image, read_labels, write_label_png, write_label_tiff


def write_opencv(path, array):
    assert cv2.imwrite(str(path), array)


STORED = [
    ("png16", "labels.png", "u2", lambda p, a: Pillow.fromarray(a).save(p)),
    ("png16_opencv", "labels.png", "u2", write_opencv),
    ("tif16", "labels.tif", "u2", tifffile.imwrite),
    ("tif32", "labels.tif", "u4", tifffile.imwrite),
    ("tif32_signed", "labels.tif", "i4", tifffile.imwrite),
    ("tif_float", "labels.tif", "f4", tifffile.imwrite),
    ("npy64", "labels.npy", "i8", np.save),
    ("npy_float", "labels.npy", "f8", np.save),
    ("npy_big_endian", "labels.npy", ">u4", np.save),
    ("npy_one_channel", "labels.npy", "u2", lambda p, a: np.save(p, a[..., None])),
]


@pytest.mark.parametrize(
    ("name", "dtype", "writer"), [case[1:] for case in STORED], ids=[case[0] for case in STORED]
)
def test_numbers_are_kept(tmp_path, label_map, name, dtype, writer):
    writer(tmp_path / name, label_map.astype(dtype))
    found = read_labels(tmp_path / name)
    np.testing.assert_array_equal(found, label_map.astype(np.int32), strict=True)


def test_eight_bit_and_one_bit_maps(tmp_path, label_map):
    small = np.where(label_map == 300, 255, label_map).astype(np.uint8)
    Pillow.fromarray(small).save(tmp_path / "small.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "small.png"), small)
    Pillow.fromarray(small > 0).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.png"), small > 0)


def test_labels_above_int32_come_as_uint32(tmp_path, label_map):
    labels = np.where(label_map == 300, 2**32 - 1, label_map).astype(np.uint32)
    np.save(tmp_path / "labels.npy", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.npy"), labels, strict=True)


@pytest.mark.parametrize("alpha", [False, True], ids=["rgb", "rgba"])
@pytest.mark.parametrize("background", [True, False], ids=["with_black", "without_black"])
def test_colours_become_labels(tmp_path, label_map, alpha, background):
    # Colours in ascending order of (red, green, blue), so the numbers follow.
    colours = {0: (0, 0, 0), 1: (0, 0, 9), 5: (0, 9, 0), 7: (0, 9, 1), 300: (9, 0, 0)}
    if not background:
        colours[0] = (200, 0, 0)
    rgb = np.zeros((*label_map.shape, 3), np.uint8)
    expected = np.zeros(label_map.shape, np.int32)
    for rank, label in enumerate([1, 5, 7, 300, 0], 1):
        rgb[label_map == label] = colours[label]
        expected[label_map == label] = 0 if background and label == 0 else rank
    if alpha:
        rgb = np.dstack([rgb, np.full(label_map.shape, 255, np.uint8)])
    Pillow.fromarray(rgb).save(tmp_path / "labels.png")

    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), expected, strict=True)


def test_colours_of_16_bits(tmp_path, label_map):
    rgb = np.zeros((*label_map.shape, 3), np.uint16)
    rgb[label_map == 1], rgb[label_map == 5] = (1, 0, 65535), (65535, 0, 1)
    tifffile.imwrite(tmp_path / "labels.tif", rgb, photometric="rgb")
    expected = np.select([label_map == 1, label_map == 5], [1, 2])
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.tif"), expected)


@pytest.mark.parametrize("black_first", [True, False])
def test_palettes(tmp_path, label_map, black_first):
    # Indices 1 and 5 share a colour, as a short colour cycle makes them.
    colours = np.zeros((256, 3), np.uint8)
    colours[[1, 5]], colours[7], colours[9] = (0, 0, 200), (0, 200, 0), (200, 0, 0)
    indices = np.where(label_map == 300, 9, label_map).astype(np.uint8)
    if not black_first:
        colours[[0, 2]] = colours[[9, 0]]
        indices = np.where(indices == 9, 0, np.where(indices == 0, 2, indices)).astype(np.uint8)
    picture = Pillow.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "labels.png")

    found = read_labels(tmp_path / "labels.png")

    if black_first:
        np.testing.assert_array_equal(found, indices)
    else:
        groups = [np.isin(label_map, [1, 5]), label_map == 7, label_map == 300]
        np.testing.assert_array_equal(found, np.select(groups, [1, 2, 3]))


BAD_LABELS = [
    ("negative", np.array([[0, -3]], np.int16), "a label out of range; got -3; expected 0 to"),
    ("negative_float", np.array([[0.0, -3.0]]), "a label out of range; got -3"),
    ("too_large", np.array([[2**32]]), "a label out of range; got 4,294,967,296"),
    ("huge_float", np.array([[1e300]]), "a label out of range"),
    (
        "fraction",
        np.array([[0, 1.0], [2.5, 3.5]]),
        "not a whole number; got 2.5 at row 1, column 0",
    ),
    ("nan", np.array([[0, np.nan]]), "not a whole number; got nan at row 0, column 1"),
    ("two_channels", np.zeros((5, 7, 2), int), "not a label map; got 2 channels; expected 1"),
    ("colour", np.full((5, 7, 3), 70000), "a colour out of range; got 70,000"),
    ("empty", np.zeros((0, 7), int), "an image without pixels"),
]


@pytest.mark.parametrize(
    ("array", "message"), [case[1:] for case in BAD_LABELS], ids=[case[0] for case in BAD_LABELS]
)
def test_labels_that_cannot_be_used(tmp_path, array, message):
    np.save(tmp_path / "labels.npy", array)
    with pytest.raises(InputError, match=message) as caught:
        read_labels(tmp_path / "labels.npy")
    assert str(tmp_path / "labels.npy") in str(caught.value)


@pytest.mark.parametrize("name", ["labels.jpg", "labels.tif"])
def test_lossy_labels_are_refused(tmp_path, label_map, name):
    picture = Pillow.fromarray(label_map.astype(np.uint8))
    picture.save(tmp_path / name, **({"compression": "jpeg"} if name.endswith("tif") else {}))
    with pytest.raises(InputError, match=r"lossy compression.*got JPEG; expected PNG, TIFF or NPY"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("highest", [300, 65_535, 65_536, 2**32 - 1])
@pytest.mark.parametrize("size", [None, (0.325, 0.65), (1 / 3, 0.1083)], ids=str)
def test_tiff_comes_back_with_its_pixel_size(tmp_path, label_map, highest, size):
    labels = np.where(label_map == 300, highest, label_map)
    path = tmp_path / "labels.tif"

    write_label_tiff(path, labels, size)

    expected = labels.astype(np.uint16 if highest <= 65_535 else np.uint32)
    with tifffile.TiffFile(path) as tif:
        np.testing.assert_array_equal(tif.asarray(), expected, strict=True)
        assert tif.is_imagej
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert tif.pages[0].predictor == 1
        assert "DateTime" not in tif.pages[0].tags
        assert tif.imagej_metadata.get("unit") == (None if size is None else "micron")
        assert tif.imagej_metadata["max"] == float(highest)
    np.testing.assert_array_equal(read_labels(path), labels)
    found = read_image(path).pixel_size_um
    assert found == (None if size is None else pytest.approx(size, rel=1e-6))
    if highest <= 65_535:
        np.testing.assert_array_equal(np.asarray(Pillow.open(path)), expected)
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_png_comes_back_in_other_libraries(tmp_path, label_map, order):
    labels = np.where(label_map == 300, 65_535, label_map).astype(np.uint32, order=order)
    labels.flags.writeable = False

    write_label_png(tmp_path / "labels.png", labels)

    expected = labels.astype(np.uint16)
    found = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), expected)


@pytest.mark.parametrize("writer", [write_label_tiff, write_label_png])
def test_equal_labels_give_equal_bytes(tmp_path, label_map, writer):
    suffix = ".tif" if writer is write_label_tiff else ".png"
    writer(tmp_path / f"a{suffix}", label_map)
    writer(tmp_path / f"b{suffix}", label_map.astype(np.uint32))
    a, b = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert a == b


def test_png_refuses_labels_above_16_bits_and_leaves_the_old_file(tmp_path, label_map):
    path = tmp_path / "labels.png"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"got label 65,536; expected at most 65,535\. Fix: write"):
        write_label_png(path, np.where(label_map == 300, 65_536, label_map))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


UNWRITABLE = [
    ("float", np.zeros((5, 7)), r"not a label map; got float64 \(5, 7\); expected integers"),
    ("volume", np.zeros((2, 5, 7), int), r"not a label map; got int64 \(2, 5, 7\)"),
    ("no_pixels", np.zeros((0, 7), int), r"not a label map; got int64 \(0, 7\)"),
    ("negative", np.full((5, 7), -2), "a label out of range; got -2"),
    ("too_large", np.full((5, 7), 2**32), "a label out of range; got 4,294,967,296"),
]


@pytest.mark.parametrize("writer", [write_label_tiff, write_label_png])
@pytest.mark.parametrize(
    ("labels", "message"), [case[1:] for case in UNWRITABLE], ids=[case[0] for case in UNWRITABLE]
)
def test_arrays_that_are_no_label_map(tmp_path, writer, labels, message):
    with pytest.raises(InputError, match=message):
        writer(tmp_path / "labels.out", labels)
    assert not list(tmp_path.iterdir())
