"""Cases for steps 6 and 7: small regions, the last NMS, and painting."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reference.cases import OUT, Case, fill, rectangles, with_pixels
from reference.cases_candidates import always
from reference.cases_nms import HERE, SHIFTED, answers, cell
from reference.fake import Answer, Scene
from reference.rules_regions import (
    EIGHT_CONNECTED,
    FOUR_CONNECTED,
    drop_islands,
    fill_holes,
)


def with_hole(box, hole, count: int) -> np.ndarray:
    """A cell with ``count`` pixels of a hole missing."""
    return with_pixels(cell(box), hole, count, OUT)


def with_island(box, island, count: int) -> np.ndarray:
    """A cell with an island of ``count`` pixels."""
    return with_pixels(cell(box), island, count, 2.0)


def clean_at_most(mask, min_area):
    filled, holes = fill_holes(mask, min_area + 1)
    cleaned, islands = drop_islands(filled, min_area + 1)
    return cleaned, holes or islands


def islands_first(mask, min_area):
    dropped, islands = drop_islands(mask, min_area)
    filled, holes = fill_holes(dropped, min_area)
    return filled, holes or islands


def no_holes_filled(mask, min_area):
    return drop_islands(mask, min_area)


def all_small_dropped(mask, min_area):
    filled, holes = fill_holes(mask, min_area)
    regions, count = ndimage.label(filled, structure=EIGHT_CONNECTED)
    large = [i for i in range(1, count + 1) if (regions == i).sum() >= min_area]
    return np.isin(regions, large), holes or len(large) < count


def clean_connected(mask, min_area, background, foreground, at_border=True):
    """Both parts of cleaning with other connections, or with holes inside the mask only."""
    regions, count = ndimage.label(~mask, structure=background)
    rim = set(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]).tolist())
    small = [
        i
        for i in range(1, count + 1)
        if (regions == i).sum() < min_area and (at_border or i not in rim)
    ]
    filled = mask | np.isin(regions, small)
    regions, count = ndimage.label(filled, structure=foreground)
    large = [i for i in range(1, count + 1) if (regions == i).sum() >= min_area]
    cleaned = np.isin(regions, large)
    return cleaned, bool((cleaned != mask).any())


def four_connected_islands(mask, min_area):
    return clean_connected(mask, min_area, EIGHT_CONNECTED, FOUR_CONNECTED)


def four_connected_holes(mask, min_area):
    return clean_connected(mask, min_area, FOUR_CONNECTED, EIGHT_CONNECTED)


def inner_holes_only(mask, min_area):
    return clean_connected(mask, min_area, EIGHT_CONNECTED, EIGHT_CONNECTED, at_border=False)


LARGE = (30, 20, 49, 36)
"""340 px that small islands of other cells can bite into."""
ROOMY = {"max_area_ratio": 0.2, "crop_nms": 0.2}

LEAKING = fill(fill(cell((5, 5, 16, 16)), (5, 5, 5, 5), OUT), (6, 6, 8, 8), OUT)
"""A hole of 9 px that meets the outside corner to corner."""

CLEAN_CASES = [
    Case(
        "6 holes of 19 px are filled, of 20 px not",
        answers(
            (0.9, with_hole((5, 5, 16, 16), (8, 8, 11, 12), 19)),
            (0.85, with_hole((25, 5, 36, 16), (28, 8, 31, 12), 20)),
        ),
        (0, 1),
        {"≤": {"clean": clean_at_most}, "never": {"clean": no_holes_filled}},
    ),
    Case(
        "6 islands of 19 px are dropped, of 20 px not",
        answers(
            (0.9, cell(LARGE)),
            (0.85, with_island((5, 6, 14, 15), (32, 22, 35, 26), 19)),
            (0.84, with_island((5, 30, 14, 39), (40, 22, 43, 26), 20)),
        ),
        (0, 2, 1),
        {"≤": {"clean": clean_at_most}},
        ROOMY,
    ),
    Case(
        "6 holes first, then islands",
        # A ring of 18 px around 12: with its hole filled it is an island of 30.
        answers(
            (0.9, cell(LARGE)),
            (0.85, fill(fill(cell((5, 6, 14, 15)), (32, 22, 36, 27), 2.0), (33, 23, 35, 26), OUT)),
        ),
        (0, 1),
        {"islands first": {"clean": islands_first}},
        ROOMY,
    ),
    Case(
        "6 the largest island stays if all are small",
        answers((0.9, with_island((5, 6, 8, 9), (20, 6, 22, 8), 9))),
        (0,),
        {"all dropped": {"clean": all_small_dropped}},
    ),
    Case(
        "6 islands are 8-connected",
        # 9 px hang on by a corner; if they were dropped they would not bite.
        answers(
            (0.9, cell(LARGE)),
            (0.85, fill(cell((20, 10, 29, 19)), (30, 20, 32, 22), 2.0)),
        ),
        (0, 1),
        {"4-connected": {"clean": four_connected_islands}},
        ROOMY,
    ),
    Case(
        "6 holes are 8-connected",
        answers((0.9, LEAKING)),
        (0,),
        {"4-connected": {"clean": four_connected_holes}},
    ),
    Case(
        "6 holes at the image's border are filled",
        answers((0.9, cell((4, 0, 7, 7), (0, 4, 7, 7)))),
        (0,),
        {"inside only": {"clean": inner_holes_only}},
    ),
]

# 17 × 19 px: a column at x = 5 closes off 85 px, which a min_area of 100 fills. Its box is a line
# before and has a width afterwards, so that pairs first meet in step 6.
NARROW = (17, 19)
COLUMN = rectangles(NARROW, (5, 0, 5, 16))
BROAD = rectangles(NARROW, (5, 0, 9, 16))
FILLING = {"min_area": 100, "max_area_ratio": 0.0}


def columns(*given: tuple[float, np.ndarray]) -> Scene:
    return Scene(NARROW, tuple(Answer(3 + i, *answer) for i, answer in enumerate(given)))


RING_AND_CORE = answers(
    (0.9, with_hole((5, 5, 16, 16), (8, 8, 11, 12), 19)), (0.85, cell((8, 8, 11, 11)))
)

LAST_NMS_CASES = [
    Case(
        "6 one more NMS, on boxes of the cleaned masks",
        columns((0.9, COLUMN), (0.85, COLUMN)),
        (0,),
        {
            "no NMS": {"threshold_of_last_nms": lambda box_nms, crop_nms: np.inf},
            "boxes before": {"boxed_in_last_nms": lambda original, cleaned: original},
        },
        FILLING,
    ),
    Case(
        "6 IoU of the original masks",
        RING_AND_CORE,
        (0, 1),
        {"of the cleaned": {"compared_in_last_nms": lambda original, cleaned: cleaned}},
    ),
    Case(
        "6 threshold max: box_nms is larger",
        columns((0.9, COLUMN), (0.85, BROAD)),
        (1, 0),
        {"crop_nms": {"threshold_of_last_nms": lambda box_nms, crop_nms: crop_nms}},
        {**FILLING, "box_nms": 0.3},
    ),
    Case(
        "6 threshold max: crop_nms is larger",
        answers((0.9, cell(HERE)), (0.85, cell((12, 6, 21, 15)))),
        (0, 1),
        {"box_nms": {"threshold_of_last_nms": lambda box_nms, crop_nms: box_nms}},
        {"crop_nms": 0.3, "box_nms": 0.0},
    ),
    Case(
        "6 unchanged masks come first",
        # So the changed one is the last of two equal areas, and wins the paint.
        answers((0.9, with_island(HERE, (40, 40, 42, 41), 5)), (0.85, cell(SHIFTED))),
        (1, 0),
        {"all alike": {"rank_after_cleaning": lambda changed: np.float32(1)}},
    ),
    Case(
        "6 unchanged masks suppress changed ones",
        # The broad one closes off nothing: its pixels reach the left side.
        columns((0.9, COLUMN), (0.85, rectangles(NARROW, (0, 0, 9, 16)))),
        (1,),
        {"all alike": {"rank_after_cleaning": lambda changed: np.float32(1)}},
        FILLING,
    ),
    Case(
        "6 then again area < ratio · image area",
        # 320 px with a hole of 19 are below a tenth of 3,233 px, but not once it is filled.
        answers((0.9, with_hole((5, 5, 24, 21), (8, 8, 11, 12), 19))),
        (),
        {"only at first": {"passes_last_area": always}},
    ),
]


def smallest_first(areas):
    return sorted(range(len(areas)), key=lambda i: areas[i])


def earlier_wins(areas):
    return sorted(range(len(areas)), key=lambda i: (-areas[i], -i))


def list_order(areas):
    return list(range(len(areas)))


def eight_connected_part(mask):
    regions, _ = ndimage.label(mask, structure=EIGHT_CONNECTED)
    return regions == 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))


def last_largest_part(mask):
    regions, count = ndimage.label(mask)
    return regions == max(range(1, count + 1), key=lambda i: ((regions == i).sum(), i))


def painted_only(mask, part):
    return part


def lowest_is_background(labels):
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


PAINT_CASES = [
    Case(
        "7 largest area first, smaller masks win",
        answers((0.9, cell((8, 8, 12, 12))), (0.85, cell((5, 5, 19, 19)))),
        (1, 0),
        {
            "smallest first": {"paint_order": smallest_first},
            "in the list's order": {"paint_order": list_order},
        },
        {"crop_nms": 0.2},
    ),
    Case(
        "7 the whole mask erases",
        answers((0.9, cell(LARGE)), (0.85, with_island(HERE, (40, 22, 43, 26), 20))),
        (0, 1),
        {"only what is painted": {"erased_part": painted_only}},
        ROOMY,
    ),
    Case(
        "7 the largest 4-connected component is painted",
        answers((0.9, cell((5, 5, 12, 12), (13, 13, 17, 17)))),
        (0,),
        {
            "8-connected": {"painted_part": eight_connected_part},
            "all of it": {"painted_part": lambda mask: mask},
        },
    ),
    Case(
        "7 of equal components the first is painted",
        answers((0.9, cell((5, 5, 9, 9), (6, 25, 10, 29)))),
        (0,),
        {"the last": {"painted_part": last_largest_part}},
    ),
    Case(
        "7 of equal areas the later one wins",
        answers((0.9, cell(HERE)), (0.85, cell(SHIFTED))),
        (0, 1),
        {"the earlier one": {"paint_order": earlier_wins}},
    ),
    Case(
        "7 renumbered 1..K without gaps, in painting order",
        # Two halves hide the first cell; IoU 0.5 is not above the threshold.
        answers((0.9, cell(HERE)), (0.85, cell((5, 6, 14, 10))), (0.84, cell((5, 11, 14, 15)))),
        (1, 2),
        {"gaps stay": {"renumber": lambda labels: labels}},
        {"crop_nms": 0.5},
    ),
    Case(
        "7 renumbered where no background is left",
        # Upstream takes the lowest number of the map for the background, here the first cell.
        columns(
            (0.9, rectangles(NARROW, (0, 0, 9, 16))), (0.85, rectangles(NARROW, (10, 0, 18, 16)))
        ),
        (0, 1),
        {"the lowest number is background": {"renumber": lowest_is_background}},
        {"max_area_ratio": 0.0},
    ),
]
