"""Rules of steps 6 and 7: small regions, the last NMS, and painting."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reference.rules_prompts import Size

FOUR_CONNECTED = ndimage.generate_binary_structure(2, 1)
EIGHT_CONNECTED = ndimage.generate_binary_structure(2, 2)


# 6. Small regions ------------------------------------------------------------------------------


def fill_holes(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    """Rule: "fill holes < 20 px [...], 8-connected": any background piece, at the border too.

    Returns the mask and whether there was such a hole.
    """
    regions, count = ndimage.label(~mask, structure=EIGHT_CONNECTED)
    small = [i for i in range(1, count + 1) if np.count_nonzero(regions == i) < min_area]
    return mask | np.isin(regions, small), bool(small)


def drop_islands(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    """Rule: "drop islands < 20 px (keep the largest if all are small, 8-connected)".

    Of equally large ones the first in raster order. Returns the mask and whether there was a small
    island, which is upstream's "changed" even where the only island stays.
    """
    regions, count = ndimage.label(mask, structure=EIGHT_CONNECTED)
    sizes = {i: np.count_nonzero(regions == i) for i in range(1, count + 1)}
    large = [i for i in sizes if sizes[i] >= min_area]
    if not large and sizes:
        large = [max(sizes, key=lambda i: sizes[i])]
    return np.isin(regions, large), any(size < min_area for size in sizes.values())


def clean(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    """Rule: "fill holes < 20 px, then drop islands < 20 px": the mask and whether it changed."""
    filled, had_holes = fill_holes(mask, min_area)
    cleaned, had_islands = drop_islands(filled, min_area)
    return cleaned, had_holes or had_islands


def rank_after_cleaning(changed: bool) -> np.float32:
    """Rule: "rank = 1 for unchanged masks and 0 for changed ones"."""
    return np.float32(0 if changed else 1)


def threshold_of_last_nms(box_nms: float, crop_nms: float) -> float:
    """Rule: "threshold max(box_nms_thresh, crop_nms_thresh)"."""
    return max(box_nms, crop_nms)


def boxed_in_last_nms(original: np.ndarray, cleaned: np.ndarray) -> np.ndarray:
    """Rule: "boxes of the cleaned masks"."""
    return cleaned


def compared_in_last_nms(original: np.ndarray, cleaned: np.ndarray) -> np.ndarray:
    """Rule: "IoU of the original masks"."""
    return original


def passes_last_area(area: int, ratio: float, image_hw: Size) -> bool:
    """Rule: "Then again area < 0.1 · image area"; 0 switches it off here as well."""
    return ratio == 0 or area / (image_hw[0] * image_hw[1]) < ratio


# 7. Painting -----------------------------------------------------------------------------------


def paint_order(areas: list[int]) -> list[int]:
    """Rule: "largest area first", stable, so that "of equal areas the later one wins the paint"."""
    return sorted(range(len(areas)), key=lambda i: -areas[i])


def painted_part(mask: np.ndarray) -> np.ndarray:
    """Rule: "its largest connected component (4-connected)"; of equal ones the first by raster."""
    regions, count = ndimage.label(mask, structure=FOUR_CONNECTED)
    if count <= 1:
        return mask
    sizes = [np.count_nonzero(regions == i) for i in range(1, count + 1)]
    return regions == 1 + int(np.argmax(sizes))


def erased_part(mask: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Rule: "the whole mask first erases to 0", not only the part that is painted."""
    return mask


def renumber(labels: np.ndarray) -> np.ndarray:
    """Rule: "labels are renumbered 1..K without gaps in painting order"."""
    present = [int(value) for value in np.unique(labels) if value]
    result = np.zeros_like(labels)
    for new, old in enumerate(present, start=1):
        result[labels == old] = new
    return result
