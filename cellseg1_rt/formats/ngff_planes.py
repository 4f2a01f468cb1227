"""Planes of OME-Zarr images: read chunk by chunk, and told by the files they are made of.

A chunk that has no file is empty: that is Zarr's own rule, so a folder of which chunks were lost
cannot be told from one that never had them. Imports numpy; zarr (extra ``zarr``) inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.channels import picked_channels
from cellseg1_rt.formats.decoding import require_real_samples
from cellseg1_rt.formats.ngff import NgffImage, list_zarr_planes, open_ngff_image
from cellseg1_rt.formats.planes import ChannelChoice, PlaneAddress, PlaneSource

__all__ = ["files_of_zarr_plane", "open_zarr_plane"]

_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata")


class ZarrPlane:
    """One plane of an image; a ``PlaneSource``. Any thread may read.

    Parameters
    ----------
    image : the image it is of.
    at : index of each of the image's stacked axes.
    channels : which of the image's, in this order.
    """

    def __init__(self, image: NgffImage, at: dict[str, int], channels: list[int]) -> None:
        self._image, self._at, self._channels = image, at, channels
        lengths = dict(zip(image.axes, image.array.shape, strict=True))
        self.shape = (int(lengths["Y"]), int(lengths["X"]), len(channels))
        self.dtype = np.dtype(image.array.dtype).newbyteorder("=")
        self.pixel_size_um = image.pixel_size_um

    @property
    def chunk_px(self) -> tuple[int, int] | None:
        """(rows, columns) of a chunk."""
        chunks = dict(zip(self._image.axes, self._image.array.chunks, strict=True))
        return int(chunks["Y"]), int(chunks["X"])

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Samples [h, w, C] of the window; only the chunks that it touches are read.

        Raises
        ------
        InputError : if one of them is damaged.
        """
        first, last = min(self._channels), max(self._channels)
        chunks = dict(zip(self._image.axes, self._image.array.chunks, strict=True))
        try:
            if chunks.get("C", 1) > 1 or first == last:
                block = self._block(rows, columns, slice(first, last + 1))
                return block[..., [channel - first for channel in self._channels]]
            parts = [self._block(rows, columns, slice(c, c + 1)) for c in self._channels]
        # Codecs meet damaged bytes with every class of exception.
        except Exception as error:
            raise InputError(
                "a chunk of this Zarr image cannot be decoded",
                where=self._image.folder,
                got=f"{type(error).__name__}: {error}",
                fix="copy or convert it again",
            ) from error
        return np.concatenate(parts, axis=2)

    def _block(self, rows: slice, columns: slice, channels: slice) -> NDArray[Any]:
        wanted: dict[str, slice | int] = {"Y": rows, "X": columns, "C": channels}
        axes = self._image.axes
        picked = tuple(wanted.get(axis, self._at.get(axis, 0)) for axis in axes)
        block = np.asarray(self._image.array[picked], self.dtype)
        left = [axis for axis in axes if axis in wanted]
        if "C" not in left:
            left, block = [*left, "C"], block[..., np.newaxis]
        return np.ascontiguousarray(block.transpose([left.index(axis) for axis in "YXC"]))


def open_zarr_plane(
    path: Path, address: PlaneAddress | None, choice: ChannelChoice | None
) -> AbstractContextManager[PlaneSource]:
    """One plane of a Zarr folder.

    Parameters
    ----------
    address : which; None where there is only one.
    choice : channels to keep; None keeps all, of which there may be at most four.

    Raises
    ------
    InputError : if it is not there, or not OME-Zarr; if there is no such channel, or no address and
        more than one plane.
    MissingExtraError : if zarr is not installed.
    """
    image, at = _image_at(path, address)
    require_real_samples(image.array.dtype, image.array.shape, image.folder)
    count = dict(zip(image.axes, image.array.shape, strict=True)).get("C", 1)
    kept = picked_channels(count, choice, where=path, names=image.channels, axis="c")
    return nullcontext(ZarrPlane(image, at, kept))


def files_of_zarr_plane(path: Path, address: PlaneAddress | None) -> list[Path]:
    """The files that a plane is made of, sorted: its chunks, and all metadata from ``path`` down.

    Raises
    ------
    InputError, MissingExtraError : as ``open_zarr_plane``.
    """
    image, at = _image_at(path, address)
    array = image.array
    sides = array.shards or array.chunks
    ranges = []
    for axis, length, side in zip(image.axes, array.shape, sides, strict=True):
        only = at.get(axis, 0) // side
        whole = axis in ("C", "Y", "X")
        ranges.append(range(-(-length // side)) if whole else range(only, only + 1))
    keys = (array.metadata.encode_chunk_key(place) for place in product(*ranges))
    files = [image.folder / key for key in keys]
    return sorted(file for file in (*files, *_metadata_of(path, image.folder)) if file.is_file())


def _metadata_of(path: Path, array: Path) -> Iterator[Path]:
    for folder in (array, *array.parents):
        yield from (folder / name for name in _METADATA)
        if folder == path:
            return


def _image_at(path: Path, address: PlaneAddress | None) -> tuple[NgffImage, dict[str, int]]:
    if address is None:
        planes = list_zarr_planes(path).planes
        if len(planes) != 1:
            raise InputError(
                "a stack of planes",
                where=path,
                got=f"{len(planes)} planes: {planes[0].name} to {planes[-1].name}",
                expected="one plane",
                fix="segment takes stacks and plates plane by plane",
            )
        (address,) = planes
    image = open_ngff_image(path, address.scene)
    lengths = dict(image.stacked)
    at = dict(address.at)
    if lengths.keys() != at.keys() or any(not 0 <= at[axis] < lengths[axis] for axis in at):
        raise InputError(
            "no such plane",
            where=path,
            got=str(address) or "no plane named",
            expected=f"an index of each of the axes {', '.join(lengths) or 'none'}",
            fix="run the same command again: the image was changed since its planes were counted",
        )
    return image, at
