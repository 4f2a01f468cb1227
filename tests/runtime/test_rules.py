"""Every rule of the method, put to the test one by one: the runtime against the slow reference.

The tables are in ``tests/reference/cases_*``. For each case three things hold: the reference gives
the cells that were worked out by hand; each wrong reading of the rule gives something else, so that
the case tells; and the runtime gives exactly what the reference gives.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from reference.cases import Case
from reference.cases_candidates import (
    AREA_CASES,
    LOGIT_CASES,
    SCORE_CASES,
    STABILITY_CASES,
)
from reference.cases_crops import CROP_CASES, PROMPT_CASES
from reference.cases_edges import EDGE_CASES
from reference.cases_nms import ACROSS_CASES, CROP_NMS_CASES, answers, cell
from reference.cases_reading import READING_CASES, READING_ERRORS, ReadingCase
from reference.cases_regions import CLEAN_CASES, LAST_NMS_CASES, PAINT_CASES
from reference.compare import assert_same, differs
from reference.fake import FakeBackend, Scene
from reference.inference import segment
from reference.reading import READING_RULES, ReadingRules
from reference.reading import rgb_from_pixels as reference_rgb
from reference.rules import RULE_NAMES

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.settings import InferenceSettings

CASES = [
    *CROP_CASES,
    *PROMPT_CASES,
    *SCORE_CASES,
    *LOGIT_CASES,
    *STABILITY_CASES,
    *AREA_CASES,
    *EDGE_CASES,
    *CROP_NMS_CASES,
    *ACROSS_CASES,
    *CLEAN_CASES,
    *LAST_NMS_CASES,
    *PAINT_CASES,
]


def broken_variants(cases):
    return [
        pytest.param(case, wrong, id=f"{case.rule} / {wrong}")
        for case in cases
        for wrong in case.broken
    ]


def runtime_of(scene: Scene | WithPredict, settings: dict, prompt_batch: int = 7):
    backend = FakeBackend(scene.predict, scene.image_size)
    return segment_rgb(scene.image, backend, InferenceSettings(**settings), prompt_batch)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_reference_gives_the_cells_worked_out_by_hand(case: Case):
    assert tuple(cell.prompt for cell in case.reference().cells) == case.prompts


@pytest.mark.parametrize(("case", "wrong"), broken_variants(CASES))
def test_broken_rule_shows(case: Case, wrong: str):
    assert differs(case.reference(**case.broken[wrong]), case.reference())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_runtime_follows_rule(case: Case):
    assert_same(runtime_of(case.scene, case.thresholds), case.reference())


def test_every_rule_is_broken_by_a_case():
    assert {name for case in CASES for broken in case.broken.values() for name in broken} == (
        RULE_NAMES
    )
    names = {name for case in READING_CASES for broken in case.broken.values() for name in broken}
    assert names == {field.name for field in fields(ReadingRules)}
    assert len({case.rule for case in CASES}) == len(CASES)


@pytest.mark.parametrize("prompt_batch", [1, 5, 64])
def test_runtime_does_not_depend_on_the_prompt_batch(prompt_batch: int):
    case = CROP_NMS_CASES[0]
    assert_same(runtime_of(case.scene, case.thresholds, prompt_batch), case.reference())


class WithPredict:
    """A scene with another predict function."""

    def __init__(self, scene: Scene, predict) -> None:
        self.image, self.image_size, self.predict = scene.image, scene.image_size, predict


def spoiled(scores: dict[int, float], logits: dict[int, float]):
    """A predict function with single scores, or single logits of a prompt, replaced."""
    scene = answers((0.9, cell((5, 6, 14, 15))))

    def predict(image, points):
        score, low_res = (array.copy() for array in scene.predict(image, points))
        for place, point in enumerate(points):
            prompt = scene.prompt_at(point, image.shape[:2])
            score[place] = scores.get(prompt, score[place])
            low_res[place, 7, 11] = logits.get(prompt, low_res[place, 7, 11])
        return score, low_res

    return scene, predict


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("prompt", [3, 24], ids=["a cell's", "another"])
def test_score_that_is_not_finite_is_an_error(value: float, prompt: int):
    scene, predict = spoiled({prompt: value}, {})
    settings = {"points_per_side": scene.points_per_side}
    with pytest.raises(ValueError, match="score is not finite"):
        segment(scene.image, predict, image_size=scene.image_size, **settings)
    with pytest.raises(CellSeg1RtError, match="(?i)score.*finite|finite.*score"):
        runtime_of(WithPredict(scene, predict), settings)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logit_that_is_not_finite_is_an_error(value: float):
    scene, predict = spoiled({}, {3: value})
    settings = {"points_per_side": scene.points_per_side}
    with pytest.raises(ValueError, match="logit is not finite"):
        segment(scene.image, predict, image_size=scene.image_size, **settings)
    with pytest.raises(CellSeg1RtError, match="(?i)logit.*finite|finite.*logit"):
        runtime_of(WithPredict(scene, predict), settings)


def test_logits_of_dropped_prompts_do_not_matter():
    scene, predict = spoiled({}, {4: np.nan})
    settings = {"points_per_side": scene.points_per_side}
    reference = segment(scene.image, predict, image_size=scene.image_size, **settings)
    assert len(reference.cells) == 1
    assert_same(runtime_of(WithPredict(scene, predict), settings), reference)


@pytest.mark.parametrize("case", READING_CASES, ids=lambda case: case.rule)
def test_reading_reference_gives_the_bytes_worked_out_by_hand(case: ReadingCase):
    assert tuple(reference_rgb(case.pixels)[0, 0]) == case.sample


@pytest.mark.parametrize(("case", "wrong"), broken_variants(READING_CASES))
def test_broken_reading_rule_shows(case: ReadingCase, wrong: str):
    rules = replace(READING_RULES, **case.broken[wrong])
    assert not np.array_equal(reference_rgb(case.pixels, rules), reference_rgb(case.pixels))


@pytest.mark.parametrize("case", READING_CASES, ids=lambda case: case.rule)
def test_reading_follows_rule(case: ReadingCase):
    before = case.pixels.copy()
    rgb = rgb_from_pixels(case.pixels)
    np.testing.assert_array_equal(case.pixels, before)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, reference_rgb(case.pixels))


@pytest.mark.parametrize("pixels", READING_ERRORS.values(), ids=READING_ERRORS)
def test_reading_errors(pixels: np.ndarray):
    with pytest.raises(ValueError):
        reference_rgb(pixels)
    with pytest.raises(InputError):
        rgb_from_pixels(pixels)
