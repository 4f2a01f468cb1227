from __future__ import annotations

import json

import numpy as np
import pytest
from plain_filling import plain_polygon

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation
from cellseg1_rt.formats.coco_runs import counts_from_string

HEIGHT, WIDTH = SHAPE = (37, 53)
TRIANGLE = [5.0, 4.5, 30.25, 9.0, 12.0, 28.5]
SQUARE = [20.0, 20.0, 28.0, 20.0, 28.0, 30.0, 20.0, 30.0]


def plain_counts(mask):
    """Runs down the columns, by a loop."""
    counts, last = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != last:
                counts.append(0)
                last = mask[row, column]
            counts[-1] += 1
    return counts


def plain_string(counts):
    """Pieces of five bits until what is left is only the sign."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            piece, value = value & 31, value >> 5
            done = (value == -1 and piece & 16) or (value == 0 and not piece & 16)
            text += chr(48 + piece + (0 if done else 32))
            if done:
                break
    return text


def image(number=1, name="plate/a.png", shape=SHAPE):
    return {"id": number, "file_name": name, "height": shape[0], "width": shape[1]}


def annotation(segmentation, image_id=1, **fields):
    return {"image_id": image_id, "category_id": 1, "segmentation": segmentation} | fields


def rle(counts, shape=SHAPE):
    return {"size": list(shape), "counts": counts}


def document(*annotations, images=None):
    return {
        "info": {},
        "images": [image()] if images is None else images,
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "cell"}],
    }


def read(tmp_path, content, shape=None, said=None, **options):
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(content))
    said = [] if said is None else said
    return read_annotation(path, shape, say=said.append, **options)


def test_polygons_are_numbered_in_order_and_later_ones_lie_on_top(tmp_path):
    found = read(tmp_path, document(annotation([TRIANGLE], iscrowd=0), annotation([SQUARE])))
    expected = plain_polygon([np.reshape(TRIANGLE, (-1, 2))], SHAPE).astype(np.int32)
    expected[20:30, 20:28] = 2
    np.testing.assert_array_equal(found, expected, strict=True)


def test_parts_are_one_cell_and_united(tmp_path):
    moved = [value + 4 for value in SQUARE]
    found = read(tmp_path, document(annotation([SQUARE, moved])))
    expected = np.zeros(SHAPE, np.int32)
    expected[20:30, 20:28] = expected[24:34, 24:32] = 1
    np.testing.assert_array_equal(found, expected)


STRINGS = [
    ("zeros", "0", [0]),
    ("largest_of_one_piece", "?", [15]),
    ("sixteen_takes_two", "`0", [16]),
    ("seventeen", "a0", [17]),
    ("ten_bits", "PP1", [1024]),
    ("third_is_plain", "061", [0, 6, 1]),
    ("fourth_is_a_difference", "0610", [0, 6, 1, 6]),
    ("a_negative_difference", "061M", [0, 6, 1, 3]),
]


@pytest.mark.parametrize(
    ("text", "counts"), [case[1:] for case in STRINGS], ids=[case[0] for case in STRINGS]
)
def test_strings_made_by_hand(text, counts):
    assert counts_from_string(text) == counts
    assert plain_string(counts) == text


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_masks_come_back_exactly(tmp_path, seed, compressed):
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < rng.choice([0.02, 0.5, 0.98])
    mask[:, 7:40] |= seed % 3 == 0  # long runs
    counts = plain_counts(mask)
    segmentation = rle(plain_string(counts) if compressed else counts)
    found = read(tmp_path, document(annotation(segmentation)), SHAPE)
    np.testing.assert_array_equal(found, mask.astype(np.int32))


def test_masks_and_polygons_keep_the_order_of_the_file(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[22:26, 22:50] = True
    both = [annotation([SQUARE]), annotation(rle(plain_counts(mask))), annotation([SQUARE[:6]])]
    found = read(tmp_path, document(*both))
    expected = np.zeros(SHAPE, np.int32)
    expected[20:30, 20:28] = 1
    expected[mask] = 2
    expected[plain_polygon([np.reshape(SQUARE[:6], (-1, 2))], SHAPE)] = 3
    np.testing.assert_array_equal(found, expected)


def test_crowds_and_boxes_are_left_out_aloud(tmp_path):
    said: list[str] = []
    content = document(
        annotation(rle([0, HEIGHT * WIDTH]), iscrowd=1),
        annotation([SQUARE]),
        annotation([], bbox=[1, 2, 3, 4]),
        {"image_id": 1, "bbox": [1, 2, 3, 4]},
    )
    assert np.count_nonzero(read(tmp_path, content, said=said)) == 80
    assert said == [
        "cells.json: left out, crowds of many objects: annotation 1",
        "cells.json: left out, no outlines: annotation 3, annotation 4",
    ]


NAMES = ["plate/a.png", "plate/b.tif", "other\\b.tif", "c.v2.png", "d.png", "d.tif"]
MANY = [image(10 + i, name, (HEIGHT, WIDTH + i)) for i, name in enumerate(NAMES)]
CHOICES = [
    ("stem", "a", 0),
    ("file", "a.png", 0),
    ("another_suffix", "/somewhere/a.tif", 0),
    ("dots", "c.v2.tif", 3),
    ("windows", "C:\\images\\a.tiff", 0),
    ("suffix_decides", "d.tif", 5),
]


@pytest.mark.parametrize(
    ("name", "chosen"), [case[1:] for case in CHOICES], ids=[case[0] for case in CHOICES]
)
def test_one_image_of_many_is_chosen_by_name(tmp_path, name, chosen):
    content = document(
        *[annotation([SQUARE], 10 + i) for i in range(6)], annotation([TRIANGLE], 10), images=MANY
    )
    found = read(tmp_path, content, (HEIGHT, WIDTH + chosen), image_name=name)
    assert found.shape == (HEIGHT, WIDTH + chosen)
    assert found.max() == (2 if chosen == 0 else 1)


WRONG_NAMES = [
    ("not_said", None, "annotations of several images; got plate/a.png.* and 1 more; expected one"),
    (
        "two_folders",
        "b.tif",
        r"several images; got plate/b.tif, other\\b.tif; expected one image n",
    ),
    ("two_suffixes", "d", "several images; got d.png, d.tif"),
    ("unknown", "e.png", "no annotations of this image; got plate/a.png, .* named e.png"),
]


@pytest.mark.parametrize(
    ("name", "message"), [case[1:] for case in WRONG_NAMES], ids=[case[0] for case in WRONG_NAMES]
)
def test_an_image_that_cannot_be_chosen(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, document(images=MANY), image_name=name)


def test_the_only_image_is_taken_aloud_where_names_differ(tmp_path):
    said: list[str] = []
    content = document(annotation([SQUARE]))
    read(tmp_path, content, said=said, image_name="a.tif")
    assert said == []
    read(tmp_path, content, said=said, image_name="renamed.tif")
    assert said == ["cells.json: its one image, plate/a.png, is taken for renamed.tif"]


BAD = [
    ("no_images", document(images=[]), "the list of images is not what COCO's format has there"),
    ("image_3", document(images=[3]), "the list of images is not what COCO's format has there"),
    (
        "no_size",
        document(images=[{"id": 1, "file_name": "a.png", "height": 3}]),
        "the image a.png without a size; got height 3, width None",
    ),
    ("no_cells", document(), "no cells; got a file without outlines"),
    ("annotation_3", document(3), "annotation 1 is not what COCO's format has there; got int"),
    (
        "odd",
        document(annotation([[1, 2, 3]])),
        "a polygon of annotation 1 is not what COCO's format has there; got list of 3",
    ),
    ("flat", document(annotation(SQUARE)), "a polygon of annotation 1 is not .*; got float"),
    ("word", document(annotation("abc")), "the segmentation of annotation 1 is not .*; got str"),
    (
        "mask_size",
        document(annotation(rle([5], (5, 1)))),
        r"annotation 1 has a mask of another size than its image; got \[5, 1\]; expected \[37, 5",
    ),
    ("short", document(annotation(rle([5, 6]))), "damaged run-length mask; got runs of 11 px toge"),
    ("negative", document(annotation(rle([-5, 6]))), "got counts that are not a list of whole num"),
    (
        "fraction",
        document(annotation(rle([5.0, 6]))),
        "counts that are not a list of whole numbers",
    ),
    ("below_0", document(annotation(rle("0N"))), "got a run of -2 px after 1 runs; expected runs"),
    ("character", document(annotation(rle("0 1"))), "got the character ' ' after 1 runs"),
    ("cut_off", document(annotation(rle("0P"))), "got a string that is cut off"),
    ("huge", document(annotation(rle("PPPPPPPPPPPP1"))), "got the character 'P' after 0 runs"),
]


@pytest.mark.parametrize(
    ("content", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_documents_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_another_size_than_the_image_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a.png has another size .*; got 37 x 53 px; expected 53"):
        read(tmp_path, document(annotation([SQUARE])), (WIDTH, HEIGHT))
