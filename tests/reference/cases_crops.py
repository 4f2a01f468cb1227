"""Cases for steps 1 and 2: the crops, what the model is shown of them, and where it is asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from reference.cases import Case, rectangles
from reference.fake import Answer, Scene
from reference.rules_prompts import OVERLAP_RATIO, resized_crop

ODD = (53, 61)


def seen_in(crop: int, crops: int, image_hw: tuple[int, int], box, prompt: int = 4) -> Scene:
    """A scene with one cell, which the model finds in one crop only."""
    answer = Answer(prompt, score=0.9, logits=rectangles(image_hw, box), crop=crop)
    return Scene(image_hw, (answer,), crops=crops, points_per_side=3)


def without_layer_0(crops):
    return list(range(1, crops + 1))


def without_per_layer_scale(height, width, n):
    return int(OVERLAP_RATIO * min(height, width))


def rounded_overlap(height, width, n):
    return round(OVERLAP_RATIO * min(height, width) * (2 / n))


def overlap_of_long_side(height, width, n):
    return int(OVERLAP_RATIO * max(height, width) * (2 / n))


def floored_length(length, overlap, n):
    return (overlap * (n - 1) + length) // n


def shifted_span(k, crop, overlap, length):
    start = min((crop - overlap) * k, length - crop)
    return start, start + crop


def y_outer_crops(n):
    return [(kx, ky) for ky in range(n) for kx in range(n)]


# Crops 2 (left, below) and 3 (right, above) of 149 × 151 px share x 72..80 and y 71..79, 20 px
# clear of the crops' inner edges: two cells that meet there and rank alike.
SHARED = (149, 151)
TIED_CROPS = Scene(
    SHARED,
    (
        Answer(0, 0.9, rectangles(SHARED, (60, 71, 80, 90)), crop=2),
        Answer(0, 0.9, rectangles(SHARED, (72, 60, 92, 79)), crop=3),
    ),
    image_size=416,
    crops=1,
    points_per_side=2,
    step=1,
)

CROP_CASES = [
    Case(
        "1 layer 0 is the image",
        seen_in(0, 1, ODD, (22, 20, 33, 31)),
        (0,),
        {"smaller crops only": {"layers": without_layer_0}},
    ),
    Case(
        "1 layer i has n² boxes, n = 2^i",
        seen_in(5, 2, (113, 127), (3, 4, 20, 18)),
        (0,),
        {
            "n = i + 1": {"crops_per_side": lambda layer: layer + 1},
            "overlap not scaled by 2/n": {"crop_overlap": without_per_layer_scale},
        },
    ),
    Case(
        "1 overlap is truncated, of the short side",
        seen_in(4, 1, (61, 64), (46, 44, 56, 55)),
        (0,),
        {
            "rounded": {"crop_overlap": rounded_overlap},
            "long side": {"crop_overlap": overlap_of_long_side},
        },
    ),
    Case(
        "1 crop length is rounded up, ends are clamped",
        seen_in(4, 1, ODD, (46, 42, 56, 51)),
        (0,),
        {
            "rounded down": {"crop_length": floored_length},
            "the last crop shifted, not cut": {"crop_span": shifted_span},
        },
    ),
    Case("1 x outer and y inner", TIED_CROPS, (0,), {"y outer": {"crop_order": y_outer_crops}}),
]


def truncated_size(height, width, image_size):
    scale = image_size / max(height, width)
    return int(height * scale), int(width * scale)


def rounded_up_size(height, width, image_size):
    scale = image_size / max(height, width)
    return math.ceil(height * scale), math.ceil(width * scale)


def stretched_size(height, width, image_size):
    return image_size, image_size


def never_enlarged_size(height, width, image_size):
    scale = min(1.0, image_size / max(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resized_without_antialiasing(image, crop, size):
    x0, y0, x1, y1 = crop
    picture = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    scale_x, scale_y = (x1 - x0) / size[1], (y1 - y0) / size[0]
    shift = (scale_x, 0, 0, 0, scale_y, 0)
    return np.array(
        picture.transform((size[1], size[0]), Image.Transform.AFFINE, shift, Image.BILINEAR)
    )


def resized_bicubic(image, crop, size):
    x0, y0, x1, y1 = crop
    picture = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def resized_before_cut(image, crop, size):
    whole = Image.fromarray(image)
    return np.array(whole.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=crop))


def swapped_channels(image, crop, size):
    return resized_crop(image, crop, size)[:, :, ::-1].copy()


def x_outer_grid(n):
    return [((ix + 0.5) / n, (iy + 0.5) / n) for ix in range(n) for iy in range(n)]


def corner_grid(n):
    return [(ix / (n - 1), iy / (n - 1)) for iy in range(n) for ix in range(n)]


def start_grid(n):
    return [(ix / n, iy / n) for iy in range(n) for ix in range(n)]


def one_scale_for_both(x, y, crop_hw, input_hw):
    scale = max(input_hw) / max(crop_hw)
    return x * scale, y * scale


def shown(image_hw: tuple[int, int], image_size: int, box) -> Scene:
    """A scene whose only score depends on every pixel the model is shown."""
    answer = Answer(prompt=4, score=0.9, logits=rectangles(image_hw, box))
    return Scene(image_hw, (answer,), image_size, points_per_side=3, checksum=True)


def asked(prompt: int, *more: int) -> Scene:
    """A scene with one answer, or several equal ones."""
    logits = rectangles(ODD, (20, 20, 31, 31))
    return Scene(ODD, tuple(Answer(p, 0.9, logits) for p in (prompt, *more)))


# Larger than the model's input: 97 × 113 px are shown as 55 × 64.
SHRUNK = Scene(
    (97, 113),
    (Answer(4, 0.9, low_res=np.pad(np.full((4, 4), 6.0), ((2, 10), (7, 5)), constant_values=-6)),),
    image_size=64,
    points_per_side=3,
    checksum=True,
)

PROMPT_CASES = [
    Case(
        "2 new sides are int(x·scale + 0.5): above a half",
        shown((59, 61), 256, (20, 20, 31, 31)),
        (0,),
        {"truncated": {"input_size": truncated_size}},
    ),
    Case(
        "2 new sides are int(x·scale + 0.5): below a half",
        shown(ODD, 256, (20, 20, 31, 31)),
        (0,),
        {
            "rounded up": {"input_size": rounded_up_size},
            "stretched to a square": {"input_size": stretched_size},
            "small images stay small": {"input_size": never_enlarged_size},
            "BGR": {"resized_crop": swapped_channels},
        },
    ),
    Case(
        "2 PIL bilinear, antialiased",
        SHRUNK,
        (0,),
        {
            "not antialiased": {"resized_crop": resized_without_antialiasing},
            "bicubic": {"resized_crop": resized_bicubic},
        },
    ),
    Case(
        "2 each crop is cut first, then resized",
        replace(seen_in(4, 1, ODD, (46, 42, 56, 51)), checksum=True),
        (0,),
        {"resized with its surroundings": {"resized_crop": resized_before_cut}},
    ),
    Case(
        "2 grid points at (i + 0.5)/n",
        asked(23),
        (0,),
        {"from corner to corner": {"grid": corner_grid}, "at i/n": {"grid": start_grid}},
    ),
    Case("2 y outer and x inner", asked(1, 5), (0,), {"x outer": {"grid": x_outer_grid}}),
    Case(
        "2 points are scaled by new/old side, each axis",
        asked(21),
        (0,),
        {"one scale": {"point_in_input": one_scale_for_both}},
    ),
    Case(
        "2 the same grid in every layer",
        seen_in(4, 1, ODD, (46, 42, 56, 51), prompt=8),
        (0,),
        {"fewer points in crops": {"grid_side": lambda side, layer: side // (layer + 1)}},
    ),
]
