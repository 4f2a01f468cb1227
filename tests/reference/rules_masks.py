"""Rules of steps 3 to 5: from logits to candidates, and which candidates suppress which."""

from __future__ import annotations

import numpy as np
import torch

from reference.rules_prompts import Box, Size

EDGE_PX = 20


# 3. Candidates ---------------------------------------------------------------------------------


def passes_score(score: np.float32, threshold: float) -> bool:
    """Rule: "keep score > 0.8", compared as float32; "a threshold of 0 switches its filter off"."""
    return threshold == 0 or bool(score > np.float32(threshold))


def crop_logits(logits: np.ndarray, image_size: int, input_hw: Size, crop_hw: Size) -> np.ndarray:
    """Rule: "Logits go 128→512 bilinear (align_corners=False, not antialiased), are cut to the
    unpadded input, then bilinear (same) to the crop's size".

    Float32 [4g, 4g] to float32 [h, w].
    """
    low = torch.from_numpy(np.array(logits, np.float32))[None, None]
    square = torch.nn.functional.interpolate(
        low, (image_size, image_size), mode="bilinear", align_corners=False, antialias=False
    )
    cut = square[..., : input_hw[0], : input_hw[1]]
    full = torch.nn.functional.interpolate(
        cut, crop_hw, mode="bilinear", align_corners=False, antialias=False
    )
    return full[0, 0].numpy()


def stability(logits: np.ndarray, offset: float) -> np.float32:
    """Rule: "stability = #(logit > +0.8) / #(logit > −0.8)", in float32; 0/0 is NaN."""
    high = np.count_nonzero(logits > np.float32(offset))
    low = np.count_nonzero(logits > np.float32(-offset))
    return np.float32(high) / np.float32(low) if low else np.float32(np.nan)


def passes_stability(value: np.float32, threshold: float) -> bool:
    """Rule: "≥ 0.6 (0/0 is dropped)": NaN compares false; 0 switches the filter off."""
    return threshold == 0 or bool(value >= np.float32(threshold))


def pixel_mask(logits: np.ndarray) -> np.ndarray:
    """Rule: "mask = logit > 0": bool, of the same shape."""
    return logits > 0


def passes_area(area: int, ratio: float, image_hw: Size, crop_hw: Size) -> bool:
    """Rule: "area < 0.1 · image area", whatever the crop's; 0 switches the filter off.

    As area / image area < ratio, which decides an exact tenth as the decimal says.
    """
    return ratio == 0 or area / (image_hw[0] * image_hw[1]) < ratio


def box_of_mask(mask: np.ndarray) -> Box:
    """Rule: "boxes xyxy of first and last set pixel (an empty mask gives 0,0,0,0)"."""
    if not mask.any():
        return 0, 0, 0, 0
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def touches_crop_edge(box: Box, crop: Box, image_hw: Size) -> bool:
    """Rule: "drop boxes with a coordinate within 20 (inclusive) of the crop's same side, in image
    coordinates with exclusive crop ends, unless that coordinate is within 20 of the image's same
    side". ``box`` in image pixels."""
    image = (0, 0, image_hw[1], image_hw[0])
    for coordinate, crop_side, image_side in zip(box, crop, image, strict=True):
        near_crop = abs(coordinate - crop_side) <= EDGE_PX
        near_image = abs(coordinate - image_side) <= EDGE_PX
        if near_crop and not near_image:
            return True
    return False


# 4 and 5. NMS ----------------------------------------------------------------------------------


def rank_in_crop(score: np.float32, stable: np.float32) -> np.float32:
    """Rule: "NMS in the crop [...], rank = score"."""
    return score


def rank_across_crops(score: np.float32, stable: np.float32) -> np.float32:
    """Rule: "the same NMS over all, rank = score × stability", in float32."""
    return score * stable


def threshold_of_crop_nms(box_nms: float, crop_nms: float) -> float:
    """Rule: "threshold crop_nms_thresh", within a crop and across crops."""
    return crop_nms


def runs_across_crops(number_of_crops: int) -> bool:
    """Rule: "If there is more than one crop: the same NMS over all"."""
    return number_of_crops > 1


def rank_order(ranks: list[np.float32]) -> list[int]:
    """Rule: "every sort is stable on the list as the previous step left it".

    Best rank first; NaN, the rank of an empty mask that no filter dropped, last.
    """
    return [int(i) for i in np.argsort(-np.array(ranks, np.float32), kind="stable")]


def boxes_overlap(a: Box, b: Box) -> bool:
    """Rule: "two boxes overlap where (x2−x1 of the intersection, clipped at 0)·(same in y) > 0 on
    those coordinates": the last pixel is not added, so one-pixel-wide boxes never do."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return width * height > 0


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Rule: "mask IoU only for such pairs", in float32; of two empty masks NaN."""
    union = np.count_nonzero(a | b)
    return np.float32(np.count_nonzero(a & b)) / np.float32(union) if union else np.float32(np.nan)


def suppresses(iou: np.float32, threshold: float) -> bool:
    """Rule: "drop IoU > 0.05", and "IoU of two empty masks is NaN in upstream and suppresses"."""
    return not iou <= np.float32(threshold)


def suppressors(kept: list[int], seen: list[int]) -> list[int]:
    """Rule: "greedy keep": only what is itself kept may drop another."""
    return kept


def list_after_nms(kept: list[int]) -> list[int]:
    """The next step's list is in rank order (``kept`` is), not in the order before the sort."""
    return kept
