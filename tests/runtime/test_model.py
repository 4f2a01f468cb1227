"""The public class: loading, segmenting, and other thresholds on held candidates."""

from __future__ import annotations

import numpy as np
import pytest

import cellseg1_rt
from cellseg1_rt.errors import ConfigError, InputError, VerificationError
from cellseg1_rt.runtime.pipeline import segment_rgb

FEW = {"points_per_side": 8}


@pytest.fixture(scope="module")
def model() -> cellseg1_rt.Model:
    return cellseg1_rt.load("tiny", **FEW)


@pytest.fixture
def image(sample) -> np.ndarray:
    return cellseg1_rt.read_image(sample).pixels


def test_inputs_are_not_modified_and_layouts_do_not_matter(model, image):
    before = image.copy()
    image.flags.writeable = False
    expected = model.segment(image)
    assert len(expected.cells)
    np.testing.assert_array_equal(image, before)
    for same in (np.asfortranarray(image), np.repeat(image[..., None], 3, 2), image.astype(">u2")):
        np.testing.assert_array_equal(model.segment(same).labels, expected.labels)


def test_segment_many_yields_each_with_its_path(model, sample):
    ((path, result),) = model.segment_many([str(sample)])
    assert path == sample
    assert result.labels.shape == (256, 256)


def test_held_candidates_give_what_a_run_at_those_thresholds_gives(model, image):
    held = model.candidates(image, score=0.2, stability=0.0)
    assert len(held) > len(model.segment(image).cells)
    for thresholds in ({}, {"score": 0.3}, {"score": 0.5, "stability": 0.8, "min_area": 0}):
        fresh = cellseg1_rt.load("tiny", **FEW, **thresholds).segment(image)
        result = held.result(**thresholds)
        np.testing.assert_array_equal(result.labels, fresh.labels)
        np.testing.assert_array_equal(result.cells.score, fresh.cells.score)
        np.testing.assert_array_equal(held.labels(**thresholds), fresh.labels)


def test_held_candidates_show_their_masks(model, image):
    held = model.candidates(image, score=0.2)
    found = held.found
    for index in range(len(held)):
        mask = held.mask(index)
        assert mask.shape == (256, 256)
        ys, xs = np.nonzero(mask)
        assert len(ys) == found.masks.area_px[index]
        if not len(ys):
            continue
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == tuple(found.masks.box[index])
        assert (found.point_xy[index] < 256).all()
    assert np.count_nonzero(found.masks.area_px) > 5


@pytest.mark.parametrize("thresholds", [{"score": 0.1}, {"stability": 0.3}], ids=str)
def test_below_the_floors_is_an_error(model, image, thresholds):
    held = model.candidates(image, score=0.2, stability=0.4)
    with pytest.raises(ConfigError, match="below the floor the candidates were found with"):
        held.result(**thresholds)


def test_threads_and_batches_do_not_change_labels(model, image):
    expected = model.segment(image).labels
    for batch in (5, 64):
        other = cellseg1_rt.load("tiny", threads=1, prompt_batch=batch, **FEW)
        assert (other.segment(image).labels == expected).mean() > 0.999


def test_bad_names_and_settings():
    with pytest.raises(ConfigError, match="no such runtime"):
        cellseg1_rt.load("tiny", runtime="abacus")
    with pytest.raises(ConfigError, match="scroe: unknown setting"):
        cellseg1_rt.load("tiny", scroe=0.5)


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 7)), np.zeros((0, 3)), np.full((3, 5), np.inf), np.ones((2, 3, 5, 7))]
)
def test_images_that_cannot_be_segmented(model, pixels):
    with pytest.raises(InputError):
        model.segment(pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (3, 2)])
def test_images_of_a_few_pixels(shape):
    model = cellseg1_rt.load("tiny", points_per_side=2, crops=1)
    pixels = np.arange(1, 1 + shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    assert model.segment(pixels).labels.shape == shape


class Overflowing:
    """A backend whose scores or logits are not finite."""

    image_size = 64

    def __init__(self, where: str) -> None:
        self.where = where

    def encode(self, images, sizes):
        return [None] * len(images)

    def decode(self, embedding, points):
        self.score = np.full(len(points), 0.9, np.float32)
        if self.where == "score":
            self.score[3] = np.nan
        return self

    def head(self, decoded, index):
        logits = np.ones((len(index), 16, 16), np.float32)
        if self.where == "logits":
            logits[0, 2, 5] = np.inf
        return logits


@pytest.mark.parametrize("where", ["score", "logits"])
def test_an_overflow_is_a_named_error_never_an_empty_result(where):
    rgb = np.full((31, 37, 3), 7, np.uint8)
    settings = cellseg1_rt.InferenceSettings(points_per_side=3)
    with pytest.raises(VerificationError, match=f"tensor {where}: values are not finite; got 1 of"):
        segment_rgb(rgb, Overflowing(where), settings)
