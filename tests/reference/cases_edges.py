"""Cases for the last part of step 3: boxes at the edge of a crop."""

from __future__ import annotations

import numpy as np

from reference.cases import Case
from reference.cases_crops import ODD, seen_in
from reference.rules_masks import touches_crop_edge


def edge_rule(near, exempt, crop_end=0):
    """The rule with other comparisons: ``near(distance)``, ``exempt(distances, side)``."""

    def touches(box, crop, image_hw):
        crop = (crop[0], crop[1], crop[2] - crop_end, crop[3] - crop_end)
        image = (0, 0, image_hw[1], image_hw[0])
        far = [abs(a - b) for a, b in zip(box, image, strict=True)]
        close = [near(abs(a - b)) for a, b in zip(box, crop, strict=True)]
        return any(close[side] and not exempt(far, side) for side in range(4))

    return touches


def within_20(distance):
    return distance <= 20


def same_side(far, side):
    return far[side] <= 20


def in_crop_pixels(box, crop, image_hw):
    local = (box[0] - crop[0], box[1] - crop[1], box[2] - crop[0], box[3] - crop[1])
    return touches_crop_edge(local, crop, image_hw)


def box_with_exclusive_end(mask):
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


# 53 × 61 px: crop 1 is (0, 0, 40, 36), crop 2 (0, 18, 40, 53), crop 4 (22, 18, 61, 53).
# 59 × 61 px: crop 2 is (0, 20, 41, 59), whose upper side is 20 px from the image's.
TOUCHING = {
    "21 px from the crop's right and lower side": (1, (3, 3, 19, 15), True),
    "20 px from its right side": (1, (3, 3, 20, 15), False),
    "20 px from its lower side": (1, (3, 3, 19, 16), False),
    "20 px from its left side": (4, (42, 42, 55, 50), False),
    "20 px from its upper side": (4, (45, 38, 55, 50), False),
    "21 px from its left and upper side": (4, (43, 39, 55, 50), True),
    "at the image's own corner": (1, (0, 0, 12, 12), True),
}

EDGE_WRONG = {
    "< 20": {"touches_crop_edge": edge_rule(lambda d: d < 20, same_side)},
    "inclusive crop ends": {"touches_crop_edge": edge_rule(within_20, same_side, crop_end=1)},
    "exclusive box ends": {"box_of_mask": box_with_exclusive_end},
    "crop pixels": {"touches_crop_edge": in_crop_pixels},
    "near any side of the image": {
        "touches_crop_edge": edge_rule(within_20, lambda far, side: min(far) <= 20)
    },
    "near the image does not count": {
        "touches_crop_edge": edge_rule(within_20, lambda far, side: False)
    },
}

EDGE_TOLD_APART_BY = {
    "21 px from the crop's right and lower side": ["inclusive crop ends", "exclusive box ends"],
    "20 px from its right side": ["< 20", "near any side of the image"],
    "20 px from its lower side": ["< 20", "near any side of the image"],
    "20 px from its left side": ["< 20", "near any side of the image"],
    "20 px from its upper side": ["< 20", "near any side of the image"],
    "21 px from its left and upper side": ["crop pixels"],
    "at the image's own corner": ["near the image does not count"],
}

EDGE_CASES = [
    Case(
        f"3 box {name}: {'kept' if kept else 'dropped'}",
        seen_in(crop, 1, ODD, box),
        (0,) if kept else (),
        {wrong: EDGE_WRONG[wrong] for wrong in EDGE_TOLD_APART_BY[name]},
    )
    for name, (crop, box, kept) in TOUCHING.items()
] + [
    Case(
        "3 box at the crop's upper side, 20 px from the image's: kept",
        seen_in(2, 1, (59, 61), (3, 20, 13, 30)),
        (0,),
        {
            "< 20 px from the image's": {
                "touches_crop_edge": edge_rule(within_20, lambda far, side: far[side] < 20)
            }
        },
    )
]
