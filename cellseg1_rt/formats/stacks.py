"""Which planes a file or folder holds, and one of them opened: each kind is left to its own module.

Imports numpy; each kind's module, and so its library, only when such a file is met.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from cellseg1_rt.formats.channels import MOST_CHANNELS, picked_channels
from cellseg1_rt.formats.decoding import decode_file, kind_of_file
from cellseg1_rt.formats.plane_names import Listing
from cellseg1_rt.formats.planes import ArrayPlane, ChannelChoice, PlaneAddress, PlaneSource

__all__ = [
    "BIOIO_SUFFIXES",
    "STACK_SUFFIXES",
    "ZARR_SUFFIXES",
    "is_zarr_folder",
    "list_planes",
    "open_plane",
]

BIOIO_SUFFIXES = (".nd2", ".czi", ".lif")
"""Microscopes' own files, read through bioio (extra ``bioio``)."""

STACK_SUFFIXES = (".tif", ".tiff", *BIOIO_SUFFIXES)
"""Names of files that may hold more than one plane; others are not opened to find out."""

ZARR_SUFFIXES = (".ome.zarr", ".zarr")
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a Zarr image, by its name or by what is in it."""
    if not path.is_dir():
        return False
    return path.name.lower().endswith(ZARR_SUFFIXES) or any(
        (path / name).exists() for name in _ZARR_METADATA
    )


def list_planes(path: Path) -> Listing:
    """The planes of a file or Zarr folder, in its order; pixels are not read.

    Raises
    ------
    InputError : if it is missing, cut off, damaged, or its axes are not those of planes.
    MissingExtraError : if the library that reads its kind is not installed.
    """
    if is_zarr_folder(path):
        from cellseg1_rt.formats.ngff import list_zarr_planes

        return list_zarr_planes(path)
    if path.name.lower().endswith(BIOIO_SUFFIXES):
        from cellseg1_rt.formats.bioio_files import list_bioio_planes

        return list_bioio_planes(path)
    if kind_of_file(path) == "TIFF":
        from cellseg1_rt.formats.tiff import list_tiff_planes

        return list_tiff_planes(path)
    return Listing((PlaneAddress(),))


def open_plane(
    path: Path, address: PlaneAddress | None = None, channels: ChannelChoice | None = None
) -> AbstractContextManager[PlaneSource]:
    """One plane, to be read window by window while the block lasts.

    Of TIFF files and Zarr folders only what a window touches is read; other files are read whole.

    Parameters
    ----------
    path : the file or Zarr folder.
    address : which plane, as ``list_planes`` gives it; None where there is only one.
    channels : to keep, in this order; None keeps all, of which there may be at most four.

    Raises
    ------
    InputError : if it is missing, cut off, damaged or of another kind; if there is no such plane
        or channel, more than one plane and no address, or more than four channels and no choice.
    MissingExtraError : if the library that reads its kind is not installed.
    """
    if is_zarr_folder(path):
        from cellseg1_rt.formats.ngff_planes import open_zarr_plane

        return open_zarr_plane(path, address, channels)
    if path.name.lower().endswith(BIOIO_SUFFIXES):
        from cellseg1_rt.formats.bioio_files import open_bioio_plane

        return open_bioio_plane(path, address, channels)
    if kind_of_file(path) == "TIFF":
        from cellseg1_rt.formats.tiff import open_tiff_plane

        return open_tiff_plane(path, address, channels)
    return nullcontext(_read_whole(path, channels))


def _read_whole(path: Path, channels: ChannelChoice | None) -> ArrayPlane:
    decoded = decode_file(path)
    pixels = decoded.samples if decoded.palette is None else decoded.palette[decoded.samples]
    planes = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    kept = picked_channels(
        planes.shape[2],
        channels,
        where=path,
        axis="3, the last one",
        fix="move the channels to the last axis, or save one plane a file"
        if planes.shape[0] <= MOST_CHANNELS
        else "choose channels, as in --channels 0,2",
    )
    if channels is not None:
        pixels = planes[..., kept] if len(kept) > 1 else planes[..., kept[0]]
    return ArrayPlane(np.ascontiguousarray(pixels), decoded.pixel_size_um)
