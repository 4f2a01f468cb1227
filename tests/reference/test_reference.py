"""The reference itself: its SAM against SAM's own forward, and what its margins promise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reference.compare import assert_same_within_margins, points_on_pixels, table_of
from reference.inference import segment
from reference.model import Predictor, build_sam
from reference.random_scenes import RANDOM_SCENES, RandomScene
from reference.rules_masks import crop_logits

TINY = {
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "global_attn_indexes": [1],
    "window_size": 5,
    "image_size": 112,
}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A tiny SAM whose weights are all drawn, the ones that SAM starts at zero as well."""
    state = build_sam(TINY).state_dict()
    generator = torch.Generator().manual_seed(3)
    drawn = {
        name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()
    }
    return Predictor(build_sam(TINY, drawn))


def test_predictor_is_sam_s_own_forward(predictor: Predictor):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (83, 112, 3), dtype=np.uint8)
    points = rng.uniform(0, 83, (7, 2)).astype(np.float32)
    scores, logits = predictor.predict(predictor.embed(image), points, batch=3)
    (expected,) = predictor.sam(
        [
            {
                "image": torch.from_numpy(image).permute(2, 0, 1).float(),
                "original_size": (53, 71),
                "point_coords": torch.from_numpy(points)[:, None],
                "point_labels": torch.ones(7, 1, dtype=torch.int),
            }
        ],
        multimask_output=False,
    )
    np.testing.assert_allclose(scores, expected["iou_predictions"][:, 0], rtol=1e-4, atol=1e-5)
    spread = float(expected["low_res_logits"].std())
    difference = np.abs(logits - expected["low_res_logits"][:, 0].numpy()).max()
    assert difference < 1e-4 * spread
    masks = [crop_logits(low, 112, (83, 112), (53, 71)) > 0 for low in logits]
    np.testing.assert_array_equal(masks, expected["masks"][:, 0].numpy())


def test_predictor_pads_after_normalising(predictor: Predictor):
    grey = np.full((83, 112, 3), 17, np.uint8)
    padded = np.zeros((112, 112, 3), np.uint8)
    padded[:83] = 17
    before, after = predictor.embed(padded), predictor.embed(grey)
    assert float((before - after).abs().max()) > 0.01


def test_state_must_be_complete():
    state = build_sam(TINY).state_dict()
    del state["image_encoder.pos_embed"]
    with pytest.raises(RuntimeError, match="pos_embed"):
        build_sam(TINY, state)


@pytest.mark.parametrize("scene", RANDOM_SCENES, ids=lambda scene: scene.name)
@pytest.mark.parametrize("size", [1e-4, 1e-3])
def test_labels_differ_only_where_margins_say_so(scene: RandomScene, size: float):
    rng = np.random.default_rng(scene.seed)

    def disturbed(image, points):
        scores, logits = scene.predict(image, points)
        return (
            scores + rng.uniform(-size, size, scores.shape).astype(np.float32),
            logits + rng.uniform(-size, size, logits.shape).astype(np.float32),
        )

    settings = {"image_size": scene.image_size, **scene.settings}
    reference = segment(scene.image, scene.predict, **settings)
    other = segment(scene.image, disturbed, **settings)
    result = SimpleNamespace(labels=other.labels, cells=SimpleNamespace(**table_of(other)))
    assert_same_within_margins(result, reference, firm=size)


def test_a_missing_cell_is_not_excused():
    scene = RANDOM_SCENES[0]
    reference = segment(scene.image, scene.predict, image_size=64, **scene.settings)
    table, labels = table_of(reference), reference.labels.copy()
    labels[labels == firmest_label(reference)] = 0
    result = SimpleNamespace(labels=labels, cells=SimpleNamespace(**table))
    with pytest.raises(AssertionError, match="margin of"):
        assert_same_within_margins(result, reference)


def firmest_label(reference) -> int:
    """The label whose closest decision is the farthest from turning."""
    labels = range(1, len(reference.cells) + 1)
    return max(labels, key=lambda label: reference.min_margin_near(reference.labels == label))


def test_points_on_pixels():
    labels = np.array([[0, 2], [1, 0]])
    points = points_on_pixels(labels, np.array([[3.0, 4.0], [5.0, 6.0]]))
    assert points[0, 1].tolist() == [5, 6]
    assert points[1, 0].tolist() == [3, 4]
    assert points[0, 0].max() < 0
