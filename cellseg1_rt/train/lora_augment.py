"""Augmentation of a tile: drawn from a NumPy generator, applied to image, labels and points.

torchvision's random transforms draw from a global generator, which would make a sample depend on
what was drawn before it. So the parameters are drawn here, with the published formulas, and only
torchvision's functions apply them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image, KeyPoints, Mask

from cellseg1_rt.train.lora_sample_settings import SampleSettings

__all__ = ["Affine", "Augmentation", "Augmented", "apply_augmentation", "draw_augmentation"]

CROP_TRIES = 10
"""As torchvision's RandomResizedCrop: after so many crops that do not fit, all is kept."""


@dataclass(frozen=True)
class Affine:
    """Scale and rotation about the centre, then a shift.

    Attributes
    ----------
    shift_xy : shares of the width and of the height.
    scale : factor.
    angle_deg : clockwise as seen, since y points down.
    """

    shift_xy: tuple[float, float]
    scale: float
    angle_deg: float


@dataclass(frozen=True)
class Augmentation:
    """What is done to one tile, in this order; then it is resized to the model's input.

    Attributes
    ----------
    brightness, contrast : b and c of x·(1 + c) + 255·b.
    flip_x, flip_y : left with right; top with bottom.
    crop : (top, left, height, width), px of the tile, resized to the model's input; or None.
    affine : on what is there by then; or None.
    """

    brightness: float
    contrast: float
    flip_x: bool
    flip_y: bool
    crop: tuple[int, int, int, int] | None
    affine: Affine | None


@dataclass(frozen=True)
class Augmented:
    """A tile after its augmentation.

    Attributes
    ----------
    image : uint8 [S, S, 3]; black beyond the tile.
    labels : int32 [S, S], 0 beyond the tile.
    points : int64 [N, 2], (x, y), the pixels they lie on now, in the order they came.
    inside : bool [N], whether a point is still in the image, and was in the crop.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    points: NDArray[np.int64]
    inside: NDArray[np.bool_]


def draw_augmentation(
    rng: np.random.Generator, tile_size: tuple[int, int], settings: SampleSettings
) -> Augmentation:
    """What to do to a tile of ``tile_size`` (height, width)."""
    brightness, contrast = 0.0, 0.0
    if rng.random() < settings.jitter_share:
        brightness, contrast = rng.uniform(-settings.jitter, settings.jitter, 2).tolist()
    flip_x, flip_y = False, False
    if rng.random() < settings.flip_share:
        flip_x, flip_y = ((True, False), (False, True), (True, True))[rng.integers(3)]
    crop = None
    if rng.random() < settings.crop_share:
        crop = _draw_crop(rng, tile_size, settings)
    affine = None
    if rng.random() < settings.affine_share:
        shift_x, shift_y = rng.uniform(-settings.shift, settings.shift, 2).tolist()
        scale = float(rng.uniform(*settings.scale))
        angle = float(rng.uniform(-settings.rotate_deg, settings.rotate_deg))
        affine = Affine((shift_x, shift_y), scale, angle)
    return Augmentation(brightness, contrast, flip_x, flip_y, crop, affine)


def apply_augmentation(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    points: NDArray[np.int64],
    augmentation: Augmentation,
    image_size: int,
) -> Augmented:
    """The augmented tile. Shares no memory with the arguments, which stay as they are.

    Parameters
    ----------
    image : uint8 [H, W, 3].
    labels : int32 [H, W], below 2^24 (they pass through float32).
    points : int64 [N, 2], (x, y), pixels.
    image_size : side S of the result.
    """
    jittered = _jittered(image, augmentation.brightness, augmentation.contrast)
    # Points lie at the centres of pixels, in coordinates where the first pixel spans 0 to 1.
    view = _View(
        Image(torch.from_numpy(jittered).permute(2, 0, 1).contiguous()),
        Mask(torch.from_numpy(labels.copy())[None]),
        KeyPoints(torch.from_numpy(points + 0.5), canvas_size=labels.shape),
    )
    if augmentation.flip_x:
        view = _flipped(view, functional.horizontal_flip)
    if augmentation.flip_y:
        view = _flipped(view, functional.vertical_flip)
    inside = _in_frame(view)
    if augmentation.crop is not None:
        top, left, height, width = augmentation.crop
        view = view.through(lambda part: functional.crop(part, top, left, height, width))
        inside = _in_frame(view)  # what is cut away stays away, though shrinking shows its place
        view = _resized(view, image_size)
    if augmentation.affine is not None:
        view = _moved(view, augmentation.affine)
    view = _resized(view, image_size)
    return Augmented(
        image=np.ascontiguousarray(view.image.numpy().transpose(1, 2, 0)),
        labels=view.labels[0].numpy(),
        points=np.floor(view.points.numpy()).astype(np.int64),
        inside=inside & _in_frame(view),
    )


@dataclass(frozen=True)
class _View:
    """Image uint8 [3, H, W], labels int32 [1, H, W] and points float64 [N, 2] of one frame."""

    image: Image
    labels: Mask
    points: KeyPoints

    def through(self, function: Callable[[Tensor], Tensor]) -> _View:
        """All three through a function of torchvision's that knows each kind."""
        return _View(function(self.image), function(self.labels), function(self.points))


def _draw_crop(
    rng: np.random.Generator, tile_size: tuple[int, int], settings: SampleSettings
) -> tuple[int, int, int, int]:
    """As torchvision's RandomResizedCrop: area uniform, aspect uniform in its logarithm."""
    tile_height, tile_width = tile_size
    for _ in range(CROP_TRIES):
        area = tile_height * tile_width * rng.uniform(*settings.crop_scale)
        ratio = math.exp(rng.uniform(*np.log(settings.crop_ratio)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= tile_width and 0 < height <= tile_height:
            top = int(rng.integers(tile_height - height + 1))
            left = int(rng.integers(tile_width - width + 1))
            return top, left, height, width
    return 0, 0, tile_height, tile_width


def _jittered(image: NDArray[np.uint8], brightness: float, contrast: float) -> NDArray[np.uint8]:
    """x·(1 + c) + 255·b, clipped, cut to whole numbers as the normalisation of images is."""
    levels = np.clip(np.arange(256) * (1 + contrast) + 255 * brightness, 0, 255)
    return np.asarray(levels.astype(np.uint8)[image])


def _flipped(view: _View, flip: Callable[[Tensor], Tensor]) -> _View:
    """torchvision flips points as indices of pixels (W - 1 - x), but crops, resizes and turns them
    as coordinates in which pixel 0 spans 0 to 1. Ours are the latter."""
    shifted = _View(view.image, view.labels, _plus(view.points, -0.5)).through(flip)
    return _View(shifted.image, shifted.labels, _plus(shifted.points, 0.5))


def _in_frame(view: _View) -> NDArray[np.bool_]:
    height, width = view.labels.shape[-2:]
    points = view.points.numpy()
    return np.asarray(((points >= 0) & (points < (width, height))).all(axis=1))


def _plus(points: KeyPoints, shift: float) -> KeyPoints:
    return KeyPoints(points.as_subclass(Tensor) + shift, canvas_size=points.canvas_size)


def _moved(view: _View, affine: Affine) -> _View:
    height, width = view.labels.shape[-2:]
    shift = [affine.shift_xy[0] * width, affine.shift_xy[1] * height]
    return view.through(
        lambda part: functional.affine(
            part,
            angle=affine.angle_deg,
            translate=shift,
            scale=affine.scale,
            shear=[0.0, 0.0],
            # Of the image; torchvision takes the nearest for masks whatever is asked for.
            interpolation=InterpolationMode.BILINEAR,
        )
    )


def _resized(view: _View, side: int) -> _View:
    """To a square. Antialiasing acts only where the tile shrinks, as it does at inference."""
    size = [side, side]
    # torchvision resizes masks with NEAREST, which samples pixels' corners, not their centres.
    labels = functional.resize(
        view.labels.as_subclass(Tensor), size, interpolation=InterpolationMode.NEAREST_EXACT
    )
    return _View(
        functional.resize(view.image, size, antialias=True),
        Mask(labels),
        functional.resize(view.points, size),
    )
