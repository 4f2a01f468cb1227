"""Images: one plane with its pixel size, as stored.

Does not normalise: see ``cellseg1_rt.runtime.normalise``. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg1_rt.formats.planes import ArrayPlane, ChannelChoice, PlaneAddress, PlaneSource
from cellseg1_rt.formats.stacks import BIOIO_SUFFIXES, open_plane

__all__ = ["IMAGE_SUFFIXES", "Image", "image_of_plane", "read_image"]

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
    *BIOIO_SUFFIXES,
)


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


def read_image(
    path: str | PathLike[str],
    *,
    channels: ChannelChoice | None = None,
    plane: PlaneAddress | None = None,
) -> Image:
    """Read one plane from a PNG, JPEG, TIFF, BMP, NPY, NIfTI, OME-Zarr, ND2, CZI or LIF image.

    The kind is told by content, so a wrong suffix does no harm; only ND2, CZI and LIF go by their
    suffix. Grey with alpha becomes grey, RGBA becomes RGB, a palette its RGB colours. An EXIF
    orientation is not applied. NPY and NIfTI arrays keep their own axes: the first is rows, the
    second columns.

    Parameters
    ----------
    path : the file, or the folder of an OME-Zarr image.
    channels : channels to keep, counted from 0 or by the names that the file gives them, in this
        order; one gives [H, W]. None keeps all, of which there may be at most 4.
    plane : which plane of a stack, as ``list_planes`` gives it; None where there is only one.

    Raises
    ------
    InputError : if the file is missing, cut off, damaged or of another kind, holds a stack and no
        plane is named, has no such plane or channel, or more than 4 channels.
    MissingExtraError : if the package that reads its kind is not installed.
    """
    path = Path(path)
    with open_plane(path, plane, channels) as source:
        return image_of_plane(source, path)


def image_of_plane(source: PlaneSource, path: Path) -> Image:
    """All of an open plane; raises as its ``read`` does."""
    if isinstance(source, ArrayPlane):  # a file that is read whole keeps its own axes
        return Image(source.pixels, source.pixel_size_um, path)
    pixels = source.read(slice(None), slice(None))
    return Image(pixels[..., 0] if pixels.shape[2] == 1 else pixels, source.pixel_size_um, path)
