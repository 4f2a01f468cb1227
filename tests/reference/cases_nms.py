"""Cases for steps 4 and 5: NMS within a crop and across crops."""

from __future__ import annotations

import numpy as np

from reference.cases import Case, fill, rectangles
from reference.cases_candidates import pair, unsure
from reference.cases_crops import ODD
from reference.fake import Answer, Scene
from reference.rules_masks import box_of_mask

HERE = (5, 6, 14, 15)
SHIFTED = (12, 13, 21, 22)
"""Meets HERE in 3 × 3 px: IoU 9/191, below 0.05."""
HALF_OFF = (10, 6, 19, 15)
"""Meets HERE in 5 × 10 px: IoU 1/3."""


def answers(*given: tuple[float, np.ndarray]) -> Scene:
    """A scene in which the prompts 3, 4, 5 ... of the image answer in this order."""
    return Scene(ODD, tuple(Answer(3 + i, *answer) for i, answer in enumerate(given)))


def cell(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    return rectangles(ODD, *boxes)


def rank_of_product(score, stability):
    return score * stability


def rank_of_score(score, stability):
    return score


def float64_product(score, stability):
    return float(score) * float(stability)


def float64_order(ranks):
    return sorted(range(len(ranks)), key=lambda i: -float(ranks[i]))


def only_box_nms(box_nms, crop_nms):
    return box_nms


def boxes_with_last_pixel(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return width > 0 and height > 0


def filled_box(mask):
    x0, y0, x1, y1 = box_of_mask(mask)
    return fill(np.zeros(mask.shape, bool), (x0, y0, x1, y1), True)


def box_iou(a, b):
    a, b = filled_box(a), filled_box(b)
    return np.float32((a & b).sum()) / np.float32((a | b).sum())


def overlap_of_smaller(a, b):
    return np.float32((a & b).sum()) / np.float32(min(a.sum(), b.sum()))


def last_of_equals_first(ranks):
    return sorted(range(len(ranks)), key=lambda i: (-ranks[i], -i))


LINE = (20, 10, 20, 30)
ANGLE = ((10, 12, 13, 29), (10, 26, 29, 29))
IN_THE_ANGLE = (16, 12, 27, 23)

CROP_NMS_CASES = [
    Case(
        "4 rank = score",
        pair((0.9, unsure(HERE, 30)), (0.85, cell(HERE))),
        (0,),
        {"score × stability": {"rank_in_crop": rank_of_product}},
    ),
    Case(
        "4 threshold crop_nms",
        answers((0.9, cell(HERE)), (0.85, cell(HALF_OFF))),
        (0,),
        {"box_nms": {"threshold_of_crop_nms": only_box_nms}},
        {"box_nms": 0.5},
    ),
    Case(
        "4 boxes overlap on their coordinates: lines never do",
        answers((0.9, cell(LINE)), (0.85, cell(LINE))),
        (1,),
        {
            "with the last pixel": {"boxes_overlap": boxes_with_last_pixel},
            "mask IoU of all pairs": {"boxes_overlap": lambda a, b: True},
        },
    ),
    Case(
        "4 IoU of masks",
        answers((0.9, cell(*ANGLE)), (0.85, cell(IN_THE_ANGLE))),
        (1, 0),
        {"of boxes": {"mask_iou": box_iou}},
    ),
    Case(
        "4 IoU, not the share of the smaller",
        answers((0.9, cell((5, 6, 19, 20))), (0.85, cell((7, 8, 10, 11)))),
        (0, 1),
        {"share": {"mask_iou": overlap_of_smaller}},
        {"crop_nms": 0.08, "box_nms": 0.0},
    ),
    Case(
        "4 greedy: what is dropped drops nothing",
        answers((0.95, cell(HERE)), (0.9, cell((12, 6, 21, 15))), (0.85, cell((19, 6, 28, 15)))),
        (0, 2),
        {"all better ones drop": {"suppressors": lambda kept, seen: seen}},
    ),
    Case(
        "4 drop IoU > threshold, not ≥",
        # 10 of 100 + 110 - 10 px: 0.05, as float32 too.
        answers((0.9, cell((10, 10, 19, 19))), (0.85, cell((18, 15, 27, 25)))),
        (1, 0),
        {
            "≥": {"suppresses": lambda iou, t: iou >= np.float32(t)},
            "float32 against float64": {"suppresses": lambda iou, t: float(iou) > t},
        },
    ),
    Case(
        "4 two empty masks suppress: their IoU is NaN",
        # They meet in step 6 only, where an image smaller than min_area fills both.
        pair((0.9, np.full((3, 5), -0.4)), (0.85, np.full((3, 5), -0.4)), (3, 5)),
        (0,),
        {"they do not": {"suppresses": lambda iou, t: iou > t}},
        {"stability": 0.0, "max_area_ratio": 0.0},
    ),
    Case(
        "4 equal scores: the earlier prompt is kept",
        answers((0.9, cell(HERE)), (0.9, cell(HALF_OFF))),
        (0,),
        {"the later one": {"rank_order": last_of_equals_first}},
    ),
    Case(
        "4 the list is in rank order afterwards",
        # Equal areas: the last of the list, so the lower score, wins the shared pixels.
        answers((0.85, cell(HERE)), (0.9, cell(SHIFTED))),
        (1, 0),
        {"in prompt order": {"list_after_nms": sorted}},
    ),
]


def across(first: tuple[float, np.ndarray], second: tuple[float, np.ndarray]) -> Scene:
    """A scene with an answer in the whole image and one in crop 1, (0, 0, 40, 36)."""
    return Scene(ODD, (Answer(3, *first), Answer(4, *second, crop=1)), crops=1)


CORNER = (3, 4, 12, 13)
BESIDE = (10, 4, 19, 13)
"""Meets CORNER in 3 × 10 px: IoU 30/170."""


def float32_tie() -> tuple[float, float]:
    """Scores (s, t) with s = t × 0.9 in float32, but s < t × 0.9 before rounding."""
    stability = np.float32(90) / np.float32(100)
    score = np.float32(0.95)
    while float(score) * float(stability) <= float(score * stability):
        score = np.nextafter(score, np.float32(1))
    return float(score * stability), float(score)


LESS, MORE = float32_tie()

ACROSS_CASES = [
    Case(
        "5 rank = score × stability",
        across((0.9, unsure(CORNER, 30)), (0.85, cell(CORNER))),
        (1,),
        {"score": {"rank_across_crops": rank_of_score}},
    ),
    Case(
        "5 rank is a float32 product",
        across((LESS, cell(CORNER)), (MORE, unsure(CORNER, 10))),
        (0,),
        {"float64": {"rank_across_crops": float64_product, "rank_order": float64_order}},
    ),
    Case(
        "5 threshold crop_nms",
        across((0.9, cell(CORNER)), (0.85, cell(BESIDE))),
        (0,),
        {"box_nms": {"threshold_of_crop_nms": only_box_nms}},
        {"box_nms": 0.5},
    ),
    Case(
        "5 the NMS across crops is there",
        across((0.9, cell(CORNER)), (0.85, cell(CORNER))),
        (0,),
        {
            "none": {
                "runs_across_crops": lambda crops: False,
                "threshold_of_last_nms": lambda box_nms, crop_nms: np.inf,
            }
        },
    ),
    Case(
        "5 only if there is more than one crop",
        # Another sort would put the more stable one first, so that the other won the paint.
        answers((0.9, unsure(HERE, 30)), (0.85, cell(SHIFTED))),
        (0, 1),
        {"always": {"runs_across_crops": lambda crops: True}},
    ),
    Case(
        "5 the list is in rank order afterwards",
        across((0.85, cell(CORNER)), (0.9, cell((10, 6, 19, 15)))),
        (1, 0),
        {"in crop order": {"list_after_nms": sorted}},
        {"crop_nms": 0.2},
    ),
]
