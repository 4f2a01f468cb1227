from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from roifile import ImagejRoi

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation, write_label_png, write_label_tiff


def plain_pieces(cells):
    """8-connected pieces by flooding, numbered in reading order."""
    labels = np.zeros(cells.shape, np.int32)
    for start in zip(*np.nonzero(cells), strict=True):
        if labels[start]:
            continue
        number, waiting = labels.max() + 1, [start]
        labels[start] = number
        while waiting:
            row, column = waiting.pop()
            for r in range(max(row - 1, 0), min(row + 2, cells.shape[0])):
                for c in range(max(column - 1, 0), min(column + 2, cells.shape[1])):
                    if cells[r, c] and not labels[r, c]:
                        labels[r, c] = number
                        waiting.append((r, c))
    return labels


def read_mask(tmp_path, mask):
    said: list[str] = []
    Pillow.fromarray(mask).save(tmp_path / "mask.png")
    return read_annotation(tmp_path / "mask.png", mask.shape, say=said.append), said


@pytest.mark.parametrize("writer", [write_label_png, write_label_tiff, np.save])
def test_label_maps_keep_their_numbers(tmp_path, label_map, writer):
    path = tmp_path / ("labels.npy" if writer is np.save else "labels.dat")
    writer(path, label_map)
    found = read_annotation(path, label_map.shape)
    np.testing.assert_array_equal(found, label_map.astype(np.int32), strict=True)


def test_colours_and_large_numbers_are_read_as_by_read_labels(tmp_path, label_map):
    labels = np.where(label_map == 300, 2**32 - 1, label_map).astype(np.uint32)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    np.testing.assert_array_equal(read_annotation(tmp_path / "labels.tif"), labels, strict=True)
    rgb = np.zeros((*label_map.shape, 3), np.uint8)
    rgb[label_map == 1], rgb[label_map == 300] = (0, 0, 200), (200, 0, 0)
    Pillow.fromarray(rgb).save(tmp_path / "labels.png")
    expected = np.select([label_map == 1, label_map == 300], [1, 2])
    np.testing.assert_array_equal(read_annotation(tmp_path / "labels.png"), expected)


VALUES = [("one", 1), ("white", 255), ("grey", 128)]


@pytest.mark.parametrize("value", [v for _, v in VALUES], ids=[i for i, _ in VALUES])
def test_pieces_of_a_binary_mask_are_cells(tmp_path, label_map, value):
    mask = np.where(label_map > 0, value, 0).astype(np.uint8)
    found, said = read_mask(tmp_path, mask)
    # 1 and 5 touch, so they are one piece.
    expected = np.select([np.isin(label_map, [1, 5]), label_map == 7, label_map == 300], [1, 2, 3])
    np.testing.assert_array_equal(found, expected.astype(np.int32), strict=True)
    assert said == ["mask.png: two values, so its 3 connected pieces are taken as cells"]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_equal_the_plain_reference(tmp_path, share, seed):
    mask = np.random.default_rng(seed).random((31, 37)) < share
    found, _ = read_mask(tmp_path, mask.astype(np.uint8) * 255)
    expected = plain_pieces(mask)
    if expected.max() == 1:
        expected *= 255
    np.testing.assert_array_equal(found, expected)


def test_corners_connect(tmp_path):
    mask = np.zeros((11, 13), np.uint8)
    mask[3, 4] = mask[4, 5] = mask[8, 8] = 255
    found, _ = read_mask(tmp_path, mask)
    assert [found[3, 4], found[4, 5], found[8, 8]] == [1, 1, 2]


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("whole", [False, True], ids=["one_piece", "everything"])
def test_one_piece_is_one_cell_and_keeps_its_number(tmp_path, value, whole):
    mask = np.zeros((11, 13), np.uint8)
    mask[3:8, 2:7] = value
    mask[:] = value if whole else mask
    found, said = read_mask(tmp_path, mask)
    np.testing.assert_array_equal(found, mask)
    assert said == []


def test_two_labels_are_no_binary_mask(tmp_path, label_map):
    labels = np.where(label_map == 5, 2, label_map > 0).astype(np.uint8)
    found, said = read_mask(tmp_path, labels)
    np.testing.assert_array_equal(found, labels)
    assert said == []


def test_lines_go_to_stderr_unless_taken(tmp_path, label_map, capsys):
    Pillow.fromarray((label_map > 0).astype(np.uint8)).save(tmp_path / "mask.png")
    read_annotation(tmp_path / "mask.png")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "mask.png: two values, so its 3 connected pieces are taken as cells\n"


def test_the_kind_is_told_by_content(tmp_path):
    roi = ImagejRoi.frompoints(np.array([(2, 2), (9, 2), (9, 8), (2, 8)]))
    ring = [[2, 2], [9, 2], [9, 8], [2, 8]]
    polygon = json.dumps({"type": "Polygon", "coordinates": [ring]}).encode()
    expected = np.zeros((11, 13), np.int32)
    expected[2:8, 2:9] = 1
    for data in (roi.tobytes(), polygon, b"\xef\xbb\xbf \n" + polygon):
        (tmp_path / "cells.dat").write_bytes(data)
        found = read_annotation(str(tmp_path / "cells.dat"), np.array((11, 13)))
        np.testing.assert_array_equal(found, expected, strict=True)


KINDS = "expected a label map or binary mask .* ImageJ ROIs .* GeoJSON, COCO JSON or Cellpose's"
BAD_FILES = [
    ("empty", b"", "the file is empty; got 0 bytes"),
    ("unknown", b"%PDF-1.7 and so on", f"not an annotation of a known kind; got .*; {KINDS}"),
    ("text", b"label,x,y\n1,2,3\n", f"not an annotation of a known kind; got .*; {KINDS}"),
    (
        "open_json",
        b'{"type": "Feature", ',
        "this JSON file is cut off or damaged; got JSONDecodeEr",
    ),
    ("not_text", b'{"type": "\xff\xfe"}', "this JSON file is cut off or damaged; got UnicodeDecod"),
    ("deep_json", b"[" * 200_000, "this JSON file is cut off or damaged; got RecursionError"),
    (
        "labelme",
        b'{"version": "5.0", "shapes": [], "imagePath": "a.png"}',
        "JSON of another kind; got an object with 'version', 'shapes', 'imagePath'; expected Geo",
    ),
    ("other_list", b"[1, 2]", "JSON of another kind; got a list of 2"),
    ("nested_lists", b"[[[[]]]]", "JSON of another kind; got a list of 1"),
    ("empty_object", b"{}", "JSON of another kind; got an object with nothing in it"),
    ("npy_header", b"\x93NUMPY\x01\x00\x05", "this NPY file is cut off or damaged"),
]


@pytest.mark.parametrize(
    ("data", "message"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_files_that_are_no_annotation(tmp_path, data, message):
    (tmp_path / "cells.dat").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_annotation(tmp_path / "cells.dat", (11, 13))
    assert str(caught.value).startswith(str(tmp_path / "cells.dat"))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot open this file; got No such file"):
        read_annotation(tmp_path / "nowhere.zip")


def test_a_map_of_another_size_is_refused(tmp_path, label_map):
    write_label_png(tmp_path / "labels.png", label_map)
    with pytest.raises(
        InputError, match=r"another size than the image; got 61 x 83 px; expected 83"
    ):
        read_annotation(tmp_path / "labels.png", label_map.shape[::-1])


def test_a_map_without_cells_is_refused(tmp_path):
    write_label_png(tmp_path / "labels.png", np.zeros((11, 13), int))
    with pytest.raises(InputError, match="no cells; got 0 everywhere; expected at least one"):
        read_annotation(tmp_path / "labels.png")
