"""Cases for step 3: which prompts become candidates, and with which mask and box."""

from __future__ import annotations

import numpy as np
import torch

from reference.cases import UNSURE, Case, fill, rectangles, with_pixels
from reference.cases_crops import ODD, seen_in
from reference.fake import Answer, Scene

LEFT, RIGHT = (5, 6, 14, 15), (35, 6, 44, 15)
"""Two boxes of 10 × 10 px, far apart."""


def pair(first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], image_hw=ODD) -> Scene:
    """A scene with two answers (score, logits), both in the whole image."""
    return Scene(image_hw, (Answer(3, *first), Answer(9, *second)))


def unsure(box: tuple[int, int, int, int], count: int, value: float = UNSURE) -> np.ndarray:
    """A cell of which ``count`` pixels have a logit between -offset and +offset."""
    return with_pixels(rectangles(ODD, box), box, count, value)


POINT_EIGHT = np.float32(0.8)
JUST_ABOVE = np.nextafter(POINT_EIGHT, np.float32(1))

SCORE_CASES = [
    Case(
        "3 score > threshold, as float32",
        pair((POINT_EIGHT, rectangles(ODD, LEFT)), (JUST_ABOVE, rectangles(ODD, RIGHT))),
        (1,),
        {
            "≥": {"passes_score": lambda score, t: score >= np.float32(t)},
            "as float64": {"passes_score": lambda score, t: float(score) > t},
        },
    ),
    Case(
        "3 score threshold 0 is off",
        Scene(ODD, (Answer(3, -0.25, rectangles(ODD, LEFT)),)),
        (0,),
        {"> 0": {"passes_score": lambda score, t: score > t}},
        {"score": 0.0},
    ),
]


def interpolated(logits: np.ndarray, size: tuple[int, int], **how) -> torch.Tensor:
    low = torch.from_numpy(np.array(logits, np.float32))[None, None]
    return torch.nn.functional.interpolate(low, size, mode="bilinear", **how)


def two_steps(logits, image_size, input_hw, crop_hw, **how):
    square = interpolated(logits, (image_size, image_size), **how)
    cut = square[0, 0, : input_hw[0], : input_hw[1]]
    return interpolated(cut.numpy(), crop_hw, **how)[0, 0].numpy()


def aligned_corners(logits, image_size, input_hw, crop_hw):
    return two_steps(logits, image_size, input_hw, crop_hw, align_corners=True)


def antialiased(logits, image_size, input_hw, crop_hw):
    return two_steps(logits, image_size, input_hw, crop_hw, antialias=True)


def not_cut(logits, image_size, input_hw, crop_hw):
    return two_steps(logits, image_size, (image_size, image_size), crop_hw)


def in_one_step(logits, image_size, input_hw, crop_hw):
    """Sampled straight from the low-resolution logits, at the right places."""
    scaled = crop_hw[0] * image_size // input_hw[0], crop_hw[1] * image_size // input_hw[1]
    return interpolated(logits, scaled)[0, 0, : crop_hw[0], : crop_hw[1]].numpy()


def padding_cells_dropped(logits, image_size, input_hw, crop_hw):
    """Low-resolution cells cut first: the last input rows then do not see the padding's cells."""
    cells = len(logits)
    rows, columns = (-(-side * cells // image_size) for side in input_hw)
    height, width = rows * image_size // cells, columns * image_size // cells
    square = interpolated(logits[:rows, :columns], (height, width))
    cut = square[0, 0, : input_hw[0], : input_hw[1]]
    return interpolated(cut.numpy(), crop_hw)[0, 0].numpy()


def hill(image_size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Low-resolution logits that fall from 4 with the square of the distance, in cells (x, y)."""
    cells = image_size // 4
    x, y = np.meshgrid(np.arange(cells), np.arange(cells))
    return 4 - 4 * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2


def stepped(image_size: int, last_valid: int) -> np.ndarray:
    """Low-resolution logits of 1 in some columns, but -9 from the first row of the padding on."""
    low_res = np.full((image_size // 4, image_size // 4), -1.0)
    low_res[last_valid - 5 :, 4:12] = 1.0
    low_res[last_valid + 1 :] = -9.0
    return low_res


# 37 × 53 px are shown as 179 × 256 and the logits shrunk again from 256 px; 97 × 131 px are shown
# as 47 × 64 (the valid part ends between the cells 11 and 12) and the logits enlarged twice.
LOGIT_CASES = [
    Case(
        "3 bilinear, align_corners=False, not antialiased, in two steps: shrinking",
        Scene((37, 53), (Answer(3, 0.9, low_res=hill(256, (23.3, 17.7), 9.1)),)),
        (0,),
        {
            "align_corners": {"crop_logits": aligned_corners},
            "antialiased": {"crop_logits": antialiased},
            "in one step": {"crop_logits": in_one_step},
            "padding not cut": {"crop_logits": not_cut},
        },
        {"max_area_ratio": 0.5},
    ),
    Case(
        "3 bilinear, align_corners=False, not antialiased, in two steps: enlarging",
        Scene((97, 131), (Answer(3, 0.9, low_res=hill(64, (6.3, 5.7), 3.1)),), image_size=64),
        (0,),
        {
            "align_corners": {"crop_logits": aligned_corners},
            "in one step": {"crop_logits": in_one_step},
            "padding not cut": {"crop_logits": not_cut},
        },
        {"max_area_ratio": 0.5},
    ),
    Case(
        "3 cut after the first step: the last rows see the padding's cells",
        Scene((97, 131), (Answer(3, 0.9, low_res=stepped(64, 11)),), image_size=64),
        (0,),
        {"cut before": {"crop_logits": padding_cells_dropped}},
        {"max_area_ratio": 0.5, "stability": 0.0},
    ),
]


def exact(height: float, rim: float) -> Scene:
    """A scene in whose square of logits ``rim`` the inner pixels are exactly ``height``.

    At 16 px a side all weights are sums of powers of two, so that nothing is rounded.
    """
    low_res = np.full((16, 16), -3.0)
    low_res[2:12, 2:12] = rim
    low_res[3:11, 3:11] = height
    return Scene((13, 16), (Answer(3, 0.9, low_res=low_res),), image_size=64)


def at_or_above(logits, offset):
    high, low = (logits >= offset).sum(), (logits >= -offset).sum()
    return np.float32(high) / np.float32(low)


def share_of_mask(logits, offset):
    return np.float32((logits > offset).sum()) / np.float32((logits > 0).sum())


def offset_of_one(logits, offset):
    return np.float32((logits > 1).sum()) / np.float32((logits > -1).sum())


STABILITY_CASES = [
    Case(
        "3 stability ≥ threshold",
        pair((0.9, unsure(LEFT, 40)), (0.85, unsure(RIGHT, 41))),
        (0,),
        {"> threshold": {"passes_stability": lambda value, t: value > np.float32(t)}},
    ),
    Case(
        "3 stability counts from -offset",
        pair((0.9, unsure(LEFT, 40, -UNSURE)), (0.85, unsure(RIGHT, 50, -UNSURE))),
        (0,),
        {"from 0": {"stability": share_of_mask}},
    ),
    Case(
        "3 stability is of the offset that is set",
        Scene(ODD, (Answer(3, 0.9, unsure(LEFT, 50)),)),
        (0,),
        {"always 1": {"stability": offset_of_one}},
        {"stability_offset": 0.3},
    ),
    Case(
        "3 stability counts logit > +offset, not ≥",
        exact(0.5, rim=0.5),
        (),
        {"≥": {"stability": at_or_above}},
        {"stability_offset": 0.5, "max_area_ratio": 0.0},
    ),
    Case(
        "3 stability 0/0 is dropped",
        # Nothing but this tells: the image is smaller than min_area, so an empty mask gets filled.
        Scene((3, 5), (Answer(3, 0.9, np.full((3, 5), -9.0)),), image_size=64),
        (),
        {"kept": {"passes_stability": lambda value, t: not value < t}},
        {"max_area_ratio": 0.0},
    ),
    Case(
        "3 stability threshold 0 is off",
        Scene(ODD, (Answer(3, 0.9, unsure(LEFT, 100)),)),
        (0,),
        {"> 0": {"passes_stability": lambda value, t: value > t}},
        {"stability": 0.0},
    ),
]


def area_in_crop(area, ratio, image_hw, crop_hw):
    return area / (crop_hw[0] * crop_hw[1]) < ratio


def always(*_):
    return True


TENTH = (40, 60)
WITH_CRUMBS = rectangles(ODD, (5, 6, 24, 20), (30, 5, 32, 7), (30, 15, 32, 17), (30, 25, 32, 27))
"""300 px and three islands of 9 px: above a tenth of 3,233 px with them, below without."""

AREA_CASES = [
    Case(
        "3 mask = logit > 0, not ≥",
        exact(0.0, rim=3.0),
        (0,),
        {"≥": {"pixel_mask": lambda logits: logits >= 0}},
        {"max_area_ratio": 0.0, "stability": 0.0, "min_area": 1},
    ),
    Case(
        "3 area < ratio · image area, not ≤",
        pair(
            (0.9, rectangles(TENTH, (3, 3, 22, 14))),
            (0.85, fill(rectangles(TENTH, (30, 20, 49, 31)), (30, 20, 30, 20), -2.0)),
            TENTH,
        ),
        (1,),
        {
            "≤": {
                "passes_area": lambda area, ratio, image, crop: area <= ratio * image[0] * image[1],
                "passes_last_area": lambda area, ratio, image: area <= ratio * image[0] * image[1],
            }
        },
    ),
    Case(
        "3 area is compared with the image's, not the crop's",
        seen_in(1, 1, ODD, (3, 3, 16, 14)),
        (0,),
        {"the crop's": {"passes_area": area_in_crop}},
    ),
    Case(
        "3 a mask that is too large suppresses nothing",
        pair((0.95, rectangles(ODD, (3, 3, 22, 22))), (0.9, rectangles(ODD, LEFT))),
        (1,),
        {"area only at the end": {"passes_area": always}},
        {"crop_nms": 0.2},
    ),
    Case(
        "3 area is of the mask before small regions are cleaned",
        Scene(ODD, (Answer(3, 0.9, WITH_CRUMBS),)),
        (),
        {"after": {"passes_area": always}},
    ),
    Case(
        "3 area ratio 0 is off",
        Scene(ODD, (Answer(3, 0.9, rectangles(ODD, (3, 3, 42, 32))),)),
        (0,),
        {
            "at first": {"passes_area": lambda area, ratio, image, crop: area < ratio},
            "at the end": {"passes_last_area": lambda area, ratio, image: area < ratio},
        },
        {"max_area_ratio": 0.0},
    ),
]
