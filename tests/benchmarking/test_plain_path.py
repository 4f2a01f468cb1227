"""The plain path is the method: equal to the slow reference, and to this package on real images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference.inference import segment
from reference.random_scenes import RANDOM_SCENES, RandomScene

import cellseg1_rt
from cellseg1_rt.benchmarking.agreement import agreement_of
from cellseg1_rt.benchmarking.contender import RuntimeContender
from cellseg1_rt.benchmarking.plain_contender import PlainContender
from cellseg1_rt.benchmarking.plain_labels import painted
from cellseg1_rt.benchmarking.plain_path import segment_plainly
from cellseg1_rt.benchmarking.stopwatch import Stopwatch
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.geometry import Crop, crops_of_image, input_size_of_crop
from cellseg1_rt.settings import InferenceSettings


class Answering:
    """A scene in the place of a model."""

    def __init__(self, scene: RandomScene) -> None:
        self.scene, self.image_size = scene, scene.image_size

    def prepare(self, rgb: np.ndarray, crop: Crop) -> tuple[np.ndarray, tuple[int, int]]:
        from reference.rules_prompts import resized_crop

        size = input_size_of_crop(crop, self.image_size)
        return resized_crop(rgb, (crop.x0, crop.y0, crop.x1, crop.y1), size), size

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def predict(self, embedding: np.ndarray, points: torch.Tensor):
        scores, logits = self.scene.predict(embedding, points.numpy())
        return torch.from_numpy(scores), torch.from_numpy(logits)[:, None]


@pytest.mark.parametrize("scene", RANDOM_SCENES, ids=lambda scene: scene.name)
def test_labels_are_the_reference_s(scene: RandomScene):
    reference = segment(scene.image, scene.predict, image_size=scene.image_size, **scene.settings)
    settings = InferenceSettings(**scene.settings)
    labels, survivors = segment_plainly(scene.image, Answering(scene), settings, Stopwatch())
    assert labels.max() >= 5
    np.testing.assert_array_equal(labels, reference.labels)
    assert len(survivors) == len(crops_of_image(*scene.image_hw, settings.crops))


def test_painting_takes_the_largest_4_connected_piece():
    """Two pieces that meet at a corner, an empty mask, and a small mask upon the large one."""
    large, small = np.zeros((2, 5, 7), bool)
    large[0, :3] = large[1, 3:6] = large[2, 3] = True
    small[1, 4] = True
    labels = painted([small, np.zeros_like(small), large], (5, 7))
    expected = np.zeros((5, 7), int)
    expected[1, 3:6] = expected[2, 3] = 1
    expected[1, 4] = 2
    np.testing.assert_array_equal(labels, expected)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("settings", [{"points_per_side": 8}, {"points_per_side": 4, "crops": 1}])
def test_labels_are_ours_on_a_real_image(settings: dict, one_thread: None):
    """In fp32. Scores differ by 1e-5: a cell whose score lies that near a threshold could differ.

    None does here. So maps are asked to be equal, and another model may need a tolerance.
    """
    sample = SAMPLES / "images" / "8d9b4205ddb1.png"
    model = cellseg1_rt.load("tiny", runtime="onnxruntime", **settings)
    ours = RuntimeContender(model).run(sample)
    plain = PlainContender(model.bundle, model.manifest, model.settings, 1).run(sample)
    assert ours.labels.max() >= 3
    agreement = agreement_of([ours.labels], [plain.labels])
    assert (agreement.ap50, agreement.equal_images) == (1, 1)
    assert ours.survivors == plain.survivors > 0
    assert set(plain.seconds) == set(ours.seconds) - {"head", "write"}
    assert plain.work["decode"].flop > 3 * ours.work["decode"].flop
