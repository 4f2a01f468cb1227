"""The runtime against the slow reference on random cells: every threshold, odd sizes, crops."""

from __future__ import annotations

import pytest
from reference.compare import assert_same_within_margins
from reference.fake import FakeBackend
from reference.inference import segment
from reference.random_scenes import RANDOM_SCENES, RandomScene

from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.settings import InferenceSettings


@pytest.mark.parametrize("scene", RANDOM_SCENES, ids=lambda scene: scene.name)
def test_runtime_gives_the_reference_s_cells(scene: RandomScene):
    image = scene.image
    reference = segment(image, scene.predict, image_size=scene.image_size, **scene.settings)
    assert len(reference.cells) >= 5
    backend = FakeBackend(scene.predict, scene.image_size)
    result = segment_rgb(image, backend, InferenceSettings(**scene.settings), prompt_batch=13)
    assert_same_within_margins(result, reference)
