"""Planes of an image, read window by window, so that none has to fit in memory whole.

Tells what a plane source is and which plane of a file is meant, and makes a source of an array.
Does not open files: see ``cellseg1_rt.formats.stacks``. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayPlane", "ChannelChoice", "PlaneAddress", "PlaneSource"]

ChannelChoice = Sequence[int | str]
"""Channels to keep, in this order: counted from 0, or by the names that a file gives them."""


@dataclass(frozen=True)
class PlaneAddress:
    """Which plane of a file, or of a Zarr folder.

    Attributes
    ----------
    scene : which of several images: its number from 0, in a Zarr folder its path below that; empty
        where there is only one.
    at : axis and index from 0 of each axis that planes are stacked along, in the file's order.
    name : what tells the plane apart in the names of outputs, as in ``A1_0`` or ``t002_z003``;
        empty where the file holds one plane.
    """

    scene: str = ""
    at: tuple[tuple[str, int], ...] = ()
    name: str = ""

    def __str__(self) -> str:
        scene = [f"image {self.scene}"] if self.scene else []
        return ", ".join([*scene, *(f"{axis.lower()} {index}" for axis, index in self.at)])


class PlaneSource(Protocol):
    """One plane of an image, read window by window.

    Attributes
    ----------
    shape : (height, width, channels) in px; grey has 1 channel.
    dtype : of the samples, native byte order.
    pixel_size_um : micrometres a pixel (y, x), or None where the image does not say.
    chunk_px : (rows, columns) of the blocks that are read at once, for windows that fit them; None
        where the whole plane is in memory, or read whatever the window.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) in px."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples."""
        ...

    @property
    def pixel_size_um(self) -> tuple[float, float] | None:
        """Micrometres a pixel (y, x)."""
        ...

    @property
    def chunk_px(self) -> tuple[int, int] | None:
        """(rows, columns) of the blocks that are read at once."""
        ...

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Samples [h, w, C] of the window, px of the plane, native byte order; the caller's own.

        Slices have no step; they are cut at the plane's edge, as numpy does.
        """
        ...


@dataclass(frozen=True)
class ArrayPlane:
    """A plane that is in memory already.

    Attributes
    ----------
    pixels : [H, W] or [H, W, C], bool, integer or float, native byte order.
    pixel_size_um : micrometres a pixel (y, x), or None where it is not known.
    """

    pixels: NDArray[Any]
    pixel_size_um: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width = self.pixels.shape[:2]
        return height, width, self.pixels.shape[2] if self.pixels.ndim == 3 else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples."""
        return self.pixels.dtype

    @property
    def chunk_px(self) -> tuple[int, int] | None:
        """None: all of it is in memory."""
        return None

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A copy of the window's samples [h, w, C]."""
        planes = self.pixels if self.pixels.ndim == 3 else self.pixels[..., np.newaxis]
        return planes[rows, columns].copy()
