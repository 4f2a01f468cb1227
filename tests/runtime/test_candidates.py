"""Candidates against logits at full size: the same pixels, counts, boxes; overflows are named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from reference.rules_masks import crop_logits

from cellseg1_rt.errors import VerificationError
from cellseg1_rt.geometry import Crop, input_size_of_crop
from cellseg1_rt.runtime import candidates
from cellseg1_rt.runtime.candidates import Found, candidates_of_crop
from cellseg1_rt.runtime.evaluate import evaluate
from cellseg1_rt.runtime.prompts import Survivors
from cellseg1_rt.settings import InferenceSettings

OPEN = {"score": 0.0, "stability": 0.0, "max_area_ratio": 0.0}
FIRM = 1e-5


@dataclass(frozen=True)
class Place:
    """A crop in an image (height, width), seen by a model of side ``model_px``."""

    name: str
    image_size: tuple[int, int]
    model_px: int
    crop: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def window(self) -> Crop:
        return Crop(*(self.crop or (0, 0, self.image_size[1], self.image_size[0])))


PLACES = [
    Place("as large as the input", (59, 64), 64),
    Place("square and as large", (64, 64), 64),
    Place("enlarged", (157, 211), 64),
    Place("shrunk", (37, 53), 256),
    Place("shrunk by far", (5, 7), 256),
    Place("narrower than a word", (97, 13), 64),
    Place("one pixel", (1, 1), 64),
    Place("one row", (1, 131), 64),
    Place("one column", (89, 1), 64),
    Place("a crop off the words' grid", (131, 149), 80, (37, 41, 118, 107)),
    Place("a crop from column 32 on", (131, 149), 80, (32, 0, 101, 59)),
]


@pytest.fixture(autouse=True)
def keep_what_the_crop_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about pixels; `test_rules` has the rule about edges."""
    monkeypatch.setattr(candidates, "EDGE_PX", -1)


def found_in(place: Place, logits: np.ndarray, **settings: float) -> Found:
    survivors = Survivors(
        np.full(len(logits), 0.9, np.float32), np.zeros((len(logits), 2), np.float32), logits
    )
    return candidates_of_crop(
        [survivors], place.window, 3, place.image_size, place.model_px,
        InferenceSettings(**{**OPEN, **settings}),
    )  # fmt: skip


def taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PyTorch's rule for one axis, in float32: before, after, weight of after [new]."""
    half = np.float32(0.5)
    scale = np.float32(old) / np.float32(new)
    source = np.maximum(scale * (np.arange(new, dtype=np.float32) + half) - half, 0)
    before = source.astype(int)
    return before, np.minimum(before + 1, old - 1), (source - before).astype(np.float32)


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """One bilinear step in float32, along x first."""
    for axis, side in ((1, width), (0, height)):
        before, after, share = taps(values.shape[axis], side)
        share = share if axis else share[:, None]
        rest = np.float32(1) - share
        values = rest * values.take(before, axis) + share * values.take(after, axis)
    return values


def full_size(place: Place, logits: np.ndarray) -> np.ndarray:
    """Dense logits [h, w] of one mask in the crop."""
    height, width = input_size_of_crop(place.window, place.model_px)
    square = resized(logits, place.model_px, place.model_px)[:height, :width]
    return resized(square, place.window.height, place.window.width)


def smooth(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """Logits with hills and valleys over several cells, some of them nowhere above 0."""
    coarse = rng.normal(-1, 3, (count, cells // 4 + 1, cells // 4 + 1)).astype(np.float32)
    return np.stack([resized(values - i % 3 * 2, cells, cells) for i, values in enumerate(coarse)])


def rough(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """Single cells above the floor in seas of all depths."""
    values = rng.normal(-4, 3, (count, cells, cells)) - np.arange(count)[:, None, None] % 5
    return values.astype(np.float32)


def plateaus(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """Cells exactly at the thresholds or an ulp beside them: rounding decides."""
    values = np.float32([-0.8, 0.0, 0.8, -5.0])
    near = np.concatenate([values, np.nextafter(values, np.float32(9)), np.nextafter(values, -9)])
    return rng.choice(near.astype(np.float32), (count, cells, cells))


def hollow(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """Nothing above the floor at all, or only in one corner cell."""
    values = np.full((count, cells, cells), -3, np.float32)
    values[1::2, -1, -1] = 2
    values[2::3, 0, 0] = 2
    return values


def level(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """All cells at -offset: a mean of equal numbers can be an ulp above them."""
    values = np.resize(np.float32([-0.8, 0, -2.3]), count)
    return np.repeat(values, cells * cells).reshape(count, cells, cells)


@pytest.mark.parametrize("draw", [smooth, rough, plateaus, hollow, level])
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("offset", [0.8, 0.0, 2.3])
def test_pixels_counts_and_boxes_are_those_of_dense_logits(place: Place, draw, offset: float):
    """Bit by bit, since both compute the same products in the same order."""
    logits = draw(np.random.default_rng(11), 13, place.model_px // 4)
    found = found_in(place, logits, stability_offset=offset)
    assert len(found) == len(logits)
    crop = place.window
    counts = evaluate(logits, crop, place.model_px, offset).counts
    for index, low in enumerate(logits):
        dense = full_size(place, low)
        mask = dense > 0
        above, near = (np.count_nonzero(dense > np.float32(at)) for at in (offset, -offset))
        assert counts[index].tolist() == [above, near, np.count_nonzero(mask)]
        assert found.masks.area_px[index] == np.count_nonzero(mask)
        x0, y0, x1, y1 = found.masks.box[index] - [crop.x0, crop.y0, crop.x0, crop.y0]
        ys, xs = np.nonzero(mask)
        expected = (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else (0, 0, 0, 0)
        assert (x0, y0, x1, y1) == expected
        np.testing.assert_array_equal(found.masks.pixels(index), mask[y0 : y1 + 1, x0 : x1 + 1])
        assert found.stability[index] == (np.float32(above) / np.float32(near) if near else 0)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_logits_are_pytorch_s(place: Place):
    """Up to contraction: PyTorch may compute a product and a sum with one rounding."""
    logits = smooth(np.random.default_rng(13), 7, place.model_px // 4)
    found = found_in(place, logits)
    crop = place.window
    for index, low in enumerate(logits):
        dense = crop_logits(
            low, place.model_px, input_size_of_crop(crop, place.model_px), (crop.height, crop.width)
        )
        ours = np.zeros(place.image_size, bool)
        x0, y0, x1, y1 = found.masks.box[index]
        ours[y0 : y1 + 1, x0 : x1 + 1] = found.masks.pixels(index)
        differs = ours[crop.y0 : crop.y1, crop.x0 : crop.x1] != (dense > 0)
        assert np.abs(dense[differs]).max(initial=0) < FIRM
        undecided = np.count_nonzero(np.abs(np.abs(dense) - np.float32(0.8)) < FIRM)
        near = np.count_nonzero(dense > -0.8)
        expected = np.count_nonzero(dense > 0.8) / max(near, 1)
        assert abs(found.stability[index] - expected) <= 2 * undecided / max(near, 1) + 1e-6


def test_a_survivor_s_columns_stay_together():
    place = PLACES[2]
    logits = smooth(np.random.default_rng(17), 9, 16)
    score = np.linspace(0.1, 0.9, 9, dtype=np.float32)
    points = np.arange(18, dtype=np.float32).reshape(9, 2)
    batches = [Survivors(score[at], points[at], logits[at]) for at in (slice(4), slice(4, 9))]
    settings = InferenceSettings(**{**OPEN, "score": 0.45})
    found = candidates_of_crop(batches, place.window, 3, place.image_size, 64, settings)
    np.testing.assert_array_equal(found.score, score[4:])
    np.testing.assert_array_equal(found.point_xy, points[4:])
    assert found.crop.tolist() == [3] * 5
    alone = found_in(place, logits[4:])
    np.testing.assert_array_equal(found.masks.words, alone.masks.words)
    np.testing.assert_array_equal(found.stability, alone.stability)


def test_logits_of_any_layout_are_read_and_not_written():
    place, logits = PLACES[2], smooth(np.random.default_rng(19), 5, 16)
    expected = found_in(place, logits.copy())
    frozen = logits.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.asfortranarray(logits), np.repeat(logits, 2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(found_in(place, same).masks.words, expected.masks.words)
    assert logits.flags.writeable


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", [(0, 0, 0), (6, 15, 15), (3, 0, 15), (2, 14, 3)], ids=str)
def test_an_overflow_anywhere_is_an_error(value: float, cell: tuple[int, int, int]):
    """Cells of the padding too, whether a pixel reads them or not."""
    logits = np.full((7, 16, 16), -7, np.float32)
    logits[cell] = value
    with pytest.raises(VerificationError, match="tensor logits: values are not finite; got 1 of"):
        found_in(Place("padded", (23, 64), 64), logits)


def test_largest_finite_logits_are_no_overflow():
    logits = np.full((2, 16, 16), np.finfo(np.float32).max, np.float32)
    found = found_in(PLACES[0], np.stack([logits[0], -logits[1]]))
    assert found.masks.area_px.tolist() == [59 * 64, 0]
