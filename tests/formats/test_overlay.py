from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats import overlay_from_labels, write_overlay


def grid_of_cells(rows=7, columns=11, cell=13, gap=2):
    """Label map of square cells, ``gap`` pixels of background between them."""
    labels = np.zeros((rows * (cell + gap) + gap, columns * (cell + gap) + gap), np.int64)
    for index in range(rows * columns):
        y, x = (gap + i * (cell + gap) for i in divmod(index, columns))
        labels[y : y + cell, x : x + cell] = 3 * index + 2
    return labels


@pytest.fixture
def rgb(label_map):
    return np.random.default_rng(5).integers(0, 256, (*label_map.shape, 3), np.uint8)


def outline_by_brute_force(labels):
    outline = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                if 0 <= v < height and 0 <= u < width and labels[v, u] != labels[y, x]:
                    outline[y, x] |= labels[y, x] != 0
    return outline


def test_outline_is_one_colour_a_cell_inside_it(rgb, label_map):
    picture = overlay_from_labels(rgb, label_map)

    outline = outline_by_brute_force(label_map)
    assert outline.sum() > 150
    for label in (1, 5, 7, 300):
        line = picture[outline & (label_map == label)]
        assert (line == line[0]).all()
        assert line[0].max() >= 200
    far = np.ones(label_map.shape, bool)
    for y, x in np.argwhere(label_map > 0):
        far[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = False
    np.testing.assert_array_equal(picture[far], rgb[far])


def test_inside_is_tinted_only_lightly_and_the_rim_is_darker(rgb, label_map):
    picture = overlay_from_labels(rgb, label_map).astype(int)
    inside = (label_map > 0) & ~outline_by_brute_force(label_map)
    change = np.abs(picture[inside] - rgb[inside])
    assert 0 < change.max() <= 21
    below = picture[20, 8:52]  # the row under cells 1 and 5
    np.testing.assert_array_equal(below, np.rint(rgb[20, 8:52] * 0.55).astype(int))


def test_large_images_get_wider_lines():
    labels = np.zeros((1801, 1811), np.int32)
    labels[100:900, 100:900] = 1
    picture = overlay_from_labels(np.zeros((*labels.shape, 3), np.uint8), labels)
    line = picture[500, 100]
    assert (picture[500, 101] == line).all()
    assert not (picture[500, 102] == line).all()


def test_cells_that_face_each_other_differ_in_colour():
    labels = grid_of_cells()
    picture = overlay_from_labels(np.zeros((*labels.shape, 3), np.uint8), labels)
    step, start = 15, 2
    corners = picture[start::step, start::step]
    assert (corners[:, 1:] != corners[:, :-1]).any(axis=2).all()
    assert (corners[1:] != corners[:-1]).any(axis=2).all()
    assert len(np.unique(corners.reshape(-1, 3), axis=0)) >= 6


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64])
def test_result_does_not_depend_on_dtype_or_gaps(rgb, label_map, dtype):
    gapless = np.searchsorted([1, 5, 7, 300], label_map) + (label_map > 0)
    expected = overlay_from_labels(rgb, gapless)
    np.testing.assert_array_equal(overlay_from_labels(rgb, label_map.astype(dtype)), expected)


def test_no_cells_and_nothing_but_cells(rgb, label_map):
    empty = overlay_from_labels(rgb, np.zeros_like(label_map))
    np.testing.assert_array_equal(empty, rgb)
    assert not np.shares_memory(empty, rgb)
    full = np.ones_like(label_map)
    full[:, 41:] = 2
    picture = overlay_from_labels(rgb, full)
    assert (picture[:, 40] == picture[0, 40]).all()
    assert (picture[:, 40] != picture[:, 41]).any(axis=1).all()


def test_inputs_are_not_changed(rgb, label_map):
    rgb.flags.writeable = label_map.flags.writeable = False
    before = rgb.copy()
    overlay_from_labels(rgb, label_map)
    np.testing.assert_array_equal(rgb, before)


def test_png_holds_the_overlay_and_is_the_same_every_time(tmp_path, rgb, label_map):
    for name in ("a.png", "b.png"):
        write_overlay(tmp_path / name, rgb, label_map)
    found = np.asarray(Pillow.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, overlay_from_labels(rgb, label_map), strict=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_jpeg_holds_about_the_overlay(tmp_path, rgb, label_map, name):
    smooth = np.full_like(rgb, 90)
    write_overlay(tmp_path / name, smooth, label_map)
    with Pillow.open(tmp_path / name) as picture:
        assert picture.format == "JPEG"
        found = np.asarray(picture).astype(int)
    assert np.abs(found - overlay_from_labels(smooth, label_map)).mean() < 5


BAD = [
    ("grey", np.zeros((61, 83), np.uint8), None, r"not an RGB image; got uint8 \(61, 83\)"),
    ("deep", np.zeros((61, 83, 3), np.uint16), None, "not an RGB image; got uint16"),
    ("size", None, np.zeros((61, 84), int), r"do not fit the image; got int64 \(61, 84\); exp"),
    ("float", None, np.zeros((61, 83)), r"do not fit the image; got float64"),
]


@pytest.mark.parametrize(
    ("bad_rgb", "bad_labels", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_arrays_that_do_not_fit(rgb, label_map, bad_rgb, bad_labels, message):
    with pytest.raises(InputError, match=message):
        overlay_from_labels(
            rgb if bad_rgb is None else bad_rgb, label_map if bad_labels is None else bad_labels
        )


def test_other_suffixes_are_refused(tmp_path, rgb, label_map):
    with pytest.raises(ConfigError, match=r"got '\.gif'; expected \.png, \.jpg, \.jpeg"):
        write_overlay(tmp_path / "a.gif", rgb, label_map)
