"""The CUDA twins in numba's simulator, through the launch code of a card, against the CPU.

Run by ``test_cuda_simulator`` in a process of its own with ``NUMBA_ENABLE_CUDASIM=1``. The
simulator lacks three things that are added here: device arrays that say where their memory is, a
view of another library's array, and libdevice's product.
"""

from __future__ import annotations

from dataclasses import replace

import numba.cuda
import numba.cuda.libdevice
import numpy as np
import pytest
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from packing import packed, random_masks
from PIL import Image
from reference.fake import FakeBackend
from reference.random_scenes import RANDOM_SCENES

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.errors import BundleError, VerificationError
from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.evaluate import evaluate, masks_of
from cellseg1_rt.runtime.nms import suppress
from cellseg1_rt.runtime.packed import PackedMasks, is_on_gpu
from cellseg1_rt.runtime.pipeline import find_candidates, result_from_candidates, segment_rgb
from cellseg1_rt.settings import InferenceSettings


class Foreign:
    """Another library's array: memory, and nothing to know it by but the interface."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__cuda_array_interface__ = array.__array_interface__


def view_of(array: object) -> FakeCUDAArray:
    class Memory:
        __array_interface__ = array.__cuda_array_interface__

    return FakeCUDAArray(np.asarray(Memory()))


FakeCUDAArray.__cuda_array_interface__ = property(lambda self: self._ary.__array_interface__)
numba.cuda.as_cuda_array = view_of
numba.cuda.libdevice.fmul_rn = lambda a, b: a * b

from cellseg1_rt.runtime import on_cuda  # noqa: E402


@pytest.fixture(autouse=True, params=[3, 32])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of threads in a block gives the same."""
    monkeypatch.setattr(on_cuda, "THREADS", request.param)


def hills(count: int, cells: int, seed: int) -> np.ndarray:
    """Logits with a hill each, plateaus at the thresholds, and one mask with nothing above them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:cells, :cells]
    centres = rng.uniform(0, cells, (count, 2, 1, 1))
    distances = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    logits = np.clip(4 - distances, -6, 4).astype(np.float32)
    logits[0, 1:4] = np.float32(-0.8)
    logits[0, 2, [0, -1]] = 4  # what lies between is evaluated too
    logits[-1] = -5
    return logits


PLACES = {
    "as large as the input": (32, Crop(0, 0, 32, 29)),
    "enlarged, an odd tile": (32, Crop(37, 5, 37 + 43, 5 + 31)),
    "shrunk": (64, Crop(29, 0, 29 + 13, 11)),
    "narrower than a word": (32, Crop(3, 2, 10, 43)),
    "one pixel": (32, Crop(0, 0, 1, 1)),
}


@pytest.mark.parametrize("place", PLACES)
def test_candidates(place: str):
    model_px, crop = PLACES[place]
    logits = hills(4, model_px // 4, 3)
    ours = evaluate(logits, crop, model_px, 0.8)
    theirs = evaluate(Foreign(logits), crop, model_px, 0.8)
    for name in ("counts", "boxes", "regions", "start"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)
    chosen = np.array([2, 0, 3])
    box = ours.boxes[chosen] + np.array([crop.x0, crop.y0, crop.x0, crop.y0], np.int32)
    expected, found = masks_of(ours, chosen, box), masks_of(theirs, chosen, box)
    assert is_on_gpu(found.words)
    np.testing.assert_array_equal(found.on_host().words, expected.words)
    joined = PackedMasks.concatenate([found, PackedMasks.concatenate([]), found])
    assert is_on_gpu(joined.words)
    for index in range(6):
        np.testing.assert_array_equal(joined.pixels(index), expected.pixels(index % 3))


def on_device(masks: PackedMasks) -> PackedMasks:
    return replace(masks, words=numba.cuda.to_device(masks.words))


def real_cells() -> np.ndarray:
    """Cells of a sample in a window of 59 × 71 px, each of them also a little shifted."""
    with Image.open(SAMPLES / "labels" / "f26f4c2c70c3.png") as image:
        labels = np.asarray(image)[40:99, 31:102]
    cells = np.stack([labels == label for label in np.unique(labels[labels > 0])])
    return np.concatenate([cells, np.roll(cells, 2, axis=2), np.roll(cells, (1, 5), axis=(1, 2))])


MASKS = {
    "real cells": real_cells,
    "random": lambda: random_masks(np.random.default_rng(5), 45, 23, 67),
    "lines and empty masks": lambda: random_masks(np.random.default_rng(7), 33, 2, 37),
    "the same mask": lambda: np.repeat(random_masks(np.random.default_rng(1), 1, 9, 33), 35, 0),
    "one": lambda: np.ones((1, 1, 1), bool),
    "none": lambda: np.zeros((0, 3, 5), bool),
}


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("name", MASKS)
def test_nms(name: str, threshold: float):
    masks = packed(MASKS[name]())
    rng = np.random.default_rng(11)
    rank = rng.choice(np.float32([0.25, 0.5, 0.75]), len(masks))  # ties
    boxes = masks.box[rng.permutation(len(masks))]
    for given in (None, boxes):
        expected = suppress(masks, rank, threshold, boxes=given)
        found = suppress(on_device(masks), rank, threshold, boxes=given)
        np.testing.assert_array_equal(found, expected)


class OnGpu(FakeBackend):
    """A backend whose logits stay on the GPU."""

    def head(self, decoded, index):
        return Foreign(super().head(decoded, index))


def test_labels_of_two_crops_and_held_candidates():
    scene = next(scene for scene in RANDOM_SCENES if scene.name == "smaller than its input")
    settings = InferenceSettings(
        points_per_side=3, crops=1, score=0.0, stability=0.3, max_area_ratio=0.4
    )
    scene = replace(scene, image_size=64, settings={"crops": 1}, _shown={})
    expected = segment_rgb(scene.image, FakeBackend(scene.predict, 64), settings, 4)
    assert len(expected.cells) > 1
    held = find_candidates(scene.image, OnGpu(scene.predict, 64), settings, 4)
    assert is_on_gpu(held.found.masks.words)
    for _ in range(2):
        result = result_from_candidates(held, settings)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.cells.score, expected.cells.score)


def test_overflow_and_foreign_types_are_named():
    logits = hills(3, 8, 5)
    logits[1, 7, 2] = np.nan
    with pytest.raises(VerificationError, match="got 1 of 192 values are NaN or infinite"):
        evaluate(Foreign(logits), Crop(0, 0, 5, 7), 32, 0.8)
    with pytest.raises(BundleError, match=r"mask_head: logits on a GPU.*got float64.*C order"):
        evaluate(Foreign(logits.astype(np.float64)), Crop(0, 0, 5, 7), 32, 0.8)
    with pytest.raises(BundleError, match="expected float32 in C order"):
        evaluate(Foreign(np.asfortranarray(logits)), Crop(0, 0, 5, 7), 32, 0.8)
