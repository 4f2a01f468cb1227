"""Images: one plane with its pixel size, as stored.

Does not normalise: see ``cellseg1_rt.runtime.normalise``. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.decoding import decode_file

__all__ = ["IMAGE_SUFFIXES", "Image", "read_image"]

IMAGE_SUFFIXES = (
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".npy",
    ".nii",
    ".nii.gz",
)
_MOST_CHANNELS = 4


@dataclass(frozen=True)
class Image:
    """A plane as its file holds it.

    Attributes
    ----------
    pixels : bool, integer or float, native byte order, [H, W] or [H, W, C] with C from 1 to 4, RGB
        order; alpha and palettes are resolved, nothing else is changed.
    pixel_size_um : micrometres a pixel (y, x), or None where the file does not say.
    path : where it was read from.
    """

    pixels: NDArray[Any]
    pixel_size_um: tuple[float, float] | None
    path: Path


def read_image(path: str | PathLike[str], *, channels: Sequence[int] | None = None) -> Image:
    """Read one plane from a PNG, JPEG, TIFF, BMP, NPY or NIfTI file.

    The kind is told by content, so a wrong suffix does no harm. Grey with alpha becomes grey, RGBA
    becomes RGB, a palette its RGB colours. An EXIF orientation is not applied. NPY and NIfTI arrays
    keep their own axes: the first is rows, the second columns.

    Parameters
    ----------
    path : the file.
    channels : channels to keep, counted from 0, in this order; one gives [H, W]. None keeps all, of
        which there may be at most 4.

    Raises
    ------
    InputError : if the file is missing, cut off, damaged or of another kind, holds a stack, has no
        such channel, or more than 4.
    MissingExtraError : for NIfTI, if nibabel is not installed.
    """
    path = Path(path)
    decoded = decode_file(path)
    pixels = decoded.samples
    if decoded.palette is not None:
        pixels = decoded.palette[pixels]
    if channels is not None:
        pixels = _selected(pixels, channels, path)
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    if count > _MOST_CHANNELS:
        raise InputError(
            "too many channels",
            where=path,
            got=f"{count} channels, shape {pixels.shape}",
            expected=f"at most {_MOST_CHANNELS}, on the last axis",
            fix="choose channels"
            if pixels.shape[0] > _MOST_CHANNELS
            else "move the channels to the last axis, or save one plane a file",
        )
    return Image(pixels, decoded.pixel_size_um, path)


def _selected(pixels: NDArray[Any], channels: Sequence[int], path: Path) -> NDArray[Any]:
    planes = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    count = planes.shape[2]
    if not 1 <= len(channels) <= _MOST_CHANNELS or not all(0 <= c < count for c in channels):
        raise InputError(
            "no such choice of channels",
            where=path,
            got=f"channels {', '.join(str(c) for c in channels) or 'none'}",
            expected=f"1 to {_MOST_CHANNELS} of the channels 0 to {count - 1}",
        )
    if len(channels) == 1:
        return np.ascontiguousarray(planes[..., channels[0]])
    return np.ascontiguousarray(planes[..., list(channels)])
