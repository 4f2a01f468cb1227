"""Kinds of mistakes: one drawing a rule, each a row of pixels that can be counted by eye."""

from __future__ import annotations

import numpy as np
import pytest

from cellseg1_rt.errors import InputError
from cellseg1_rt.evaluate import Mistakes, figures_from_maps, find_mistakes

# Name, true row, predicted row ("." is background), and what is wrong. Labels not named are fine.
CASES = [
    ("the same", "11111..22.", "33333..44.", {}),
    ("nothing at all", "..........", "..........", {}),
    ("missed", "11111..22.", ".......44.", {"missed": [1]}),
    ("false", ".......22.", "33333..44.", {"false": [3]}),
    ("badly outlined", "1111111111", "333.......", {"missed": [1], "false": [3]}),
    ("IoU 0.5 is a match", "1111111111", "33333.....", {}),
    ("split, no match", "1111111111", "3334444.55", {"split": [1], "split_parts": [3, 4, 5]}),
    ("split, a match", "1111111111", "3333333.44", {"split": [1], "split_parts": [3, 4]}),
    ("split in two halves", "1111111111", "3333344444", {"split": [1], "split_parts": [3, 4]}),
    ("a part is just half inside", "111111....", "3333.55...", {"false": [5]}),
    ("a part is mostly inside", "1111111...", "3333.555..", {"split": [1], "split_parts": [3, 5]}),
    ("merged, no match", "1112222.44", "3333333333", {"merged": [3], "merged_parts": [1, 2, 4]}),
    ("merged, a match", "1111111.22", "3333333333", {"merged": [3], "merged_parts": [1, 2]}),
    (
        "one part alone is neither",
        "1111111111",
        ".33.......",
        {"missed": [1], "false": [3]},
    ),
    (
        "split and a part of a merged cell at once",
        "1111111112",
        "3455555555",
        {"split": [1], "split_parts": [3, 4, 5], "merged": [5], "merged_parts": [1, 2]},
    ),
]  # fmt: skip


def row(text):
    """A label map of one row."""
    return np.array([[0 if c == "." else int(c) for c in text]])


@pytest.mark.parametrize(
    "true, pred, expected", [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_kinds(true, pred, expected):
    found = find_mistakes(row(pred), row(true))
    for kind in Mistakes.__dataclass_fields__:
        assert getattr(found, kind).tolist() == expected.get(kind, []), kind


@pytest.mark.parametrize(
    "true, pred", [case[1:3] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_mirror_image(true, pred):
    there, back = find_mistakes(row(pred), row(true)), find_mistakes(row(true), row(pred))
    for kind, mirrored in (
        ("missed", "false"),
        ("split", "merged"),
        ("split_parts", "merged_parts"),
    ):
        assert getattr(there, kind).tolist() == getattr(back, mirrored).tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2", ">i4", "u4", "i8", "u8"])
def test_dtype_and_label_numbers_do_not_matter(dtype):
    true, pred = row("1112222.44..6666"), row("3333333333.55...")
    expected = figures_from_maps(pred, true)
    assert (expected.merged, expected.missed, expected.false) == (1, 1, 1)
    top = np.iinfo(dtype).max
    spread = [
        np.where(labels == labels.max(), top, labels.astype(dtype)) for labels in (pred, true)
    ]
    assert figures_from_maps(*spread) == expected
    assert figures_from_maps(*(labels.astype(dtype) for labels in (pred, true))) == expected


def test_figures_of_a_known_image():
    figures = figures_from_maps(row("33333333.4.66.."), row("1111111111.22.7"))
    assert figures.to_dict() == {
        "average_precision": pytest.approx([2 / 4] * 7 + [1 / 5] * 3),
        "mean_average_precision": pytest.approx((7 * 2 / 4 + 3 * 1 / 5) / 10),
        "f1": pytest.approx(4 / 6),
        "mean_iou": pytest.approx((0.8 + 1) / 2),
        "true": 3,
        "predicted": 3,
        "tp": 2,
        "fp": 1,
        "fn": 1,
        "missed": 1,
        "false": 0,
        "split": 1,
        "merged": 0,
    }


def test_inputs_are_not_changed():
    pred, true = row("3334444.55").astype(np.uint16), row("1111111111").astype(np.uint16)
    copies = pred.copy(), true.copy()
    figures_from_maps(pred, true)
    np.testing.assert_array_equal(pred, copies[0])
    np.testing.assert_array_equal(true, copies[1])


def test_maps_that_cannot_be_compared():
    with pytest.raises(InputError, match="different shapes"):
        find_mistakes(row("1"), row("11"))
    with pytest.raises(InputError, match="a negative label"):
        figures_from_maps(row("11"), -row("11"))
    with pytest.raises(InputError, match="not a label map; got dtype float64"):
        figures_from_maps(row("11") / 2, row("11"))
