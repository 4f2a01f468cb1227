"""ND2, CZI and LIF: microscopes' own files, through bioio and its readers (extra ``bioio``).

The scenes are a file's positions or series; mosaics come as their reader stitches them. A plane is
read whole, and no other with it. Imports numpy; bioio inside.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.extras import require
from cellseg1_rt.formats.channels import picked_channels
from cellseg1_rt.formats.decoding import damaged_file, require_real_samples
from cellseg1_rt.formats.pixel_size import checked_pixel_size
from cellseg1_rt.formats.plane_names import Listing, Scene, listing_of, scene_parts
from cellseg1_rt.formats.planes import ArrayPlane, ChannelChoice, PlaneAddress, PlaneSource

__all__ = ["list_bioio_planes", "open_bioio_plane"]

_STACKED = "TZ"
# Or one plane would be read with all of its stack. The reader of ND2 goes by planes anyway.
_BY_PLANES: dict[str, dict[str, Any]] = {
    ".czi": {"chunk_dims": ["Y", "X"]},
    ".lif": {"chunk_dims": ["Y", "X"]},
    ".nd2": {},
}
Value = TypeVar("Value")


def list_bioio_planes(path: Path) -> Listing:
    """The planes of every scene of a file; pixels are not read.

    Raises
    ------
    InputError : if it is missing, cut off or damaged.
    MissingExtraError : if bioio, or its reader of such files, is not installed.
    """

    def scenes() -> list[Scene]:
        image = _opened(path)
        names = [str(name) for name in image.scenes]
        found = []
        for number, part in enumerate(scene_parts(names)):
            image.set_scene(number)
            lengths = [(axis, int(getattr(image.dims, axis))) for axis in _STACKED]
            stacked = tuple((axis, n) for axis, n in lengths if n > 1)
            found.append(Scene(str(number) if len(names) > 1 else "", part, stacked))
        return found

    return listing_of(_told(path, scenes))


def open_bioio_plane(
    path: Path, address: PlaneAddress | None, choice: ChannelChoice | None
) -> AbstractContextManager[PlaneSource]:
    """One plane of a file, read whole.

    Parameters
    ----------
    address : which; None where there is only one.
    choice : channels to keep; None keeps all, of which there may be at most four.

    Raises
    ------
    InputError : if it is missing, cut off or damaged; if there is no such channel, or no address
        and more than one plane.
    MissingExtraError : if bioio, or its reader of such files, is not installed.
    """
    if address is None:
        planes = list_bioio_planes(path).planes
        if len(planes) != 1:
            raise InputError(
                "a stack of planes",
                where=path,
                got=f"{len(planes)} planes: {planes[0].name} to {planes[-1].name}",
                expected="one plane",
                fix="segment takes stacks plane by plane",
            )
        (address,) = planes
    at = address
    return nullcontext(_told(path, lambda: _read(path, at, choice)))


def _read(path: Path, address: PlaneAddress, choice: ChannelChoice | None) -> ArrayPlane:
    image = _opened(path)
    image.set_scene(int(address.scene or 0))
    require_real_samples(np.dtype(image.dtype), tuple(image.shape), path)
    samples = int(getattr(image.dims, "S", 1)) if "S" in image.dims.order else 1
    axis, count = ("S", samples) if samples > 1 else ("C", int(image.dims.C))
    if samples > 1 and image.dims.C > 1:
        raise InputError(
            "two axes of channels",
            where=path,
            got=f"{image.dims.C} channels of {samples} samples",
            expected="one axis of channels",
            fix="save the channels to segment as OME-TIFF",
        )
    names = [str(name) for name in image.channel_names or []] if axis == "C" else []
    kept = picked_channels(
        count, choice, where=path, names=names if len(names) == count else (), axis=axis
    )
    at: dict[str, Any] = dict(address.at)
    if axis == "C":
        block = image.get_image_dask_data("YXC", C=kept, **at).compute()
    else:
        block = image.get_image_dask_data("YXS", **at).compute()[..., kept]
    pixels = np.ascontiguousarray(block, np.dtype(block.dtype).newbyteorder("="))
    if pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    size = image.physical_pixel_sizes
    known = size.Y is not None and size.X is not None
    return ArrayPlane(pixels, checked_pixel_size(size.Y, size.X) if known else None)


def _opened(path: Path) -> Any:
    suffix = path.suffix.lower()
    extra = "czi" if suffix == ".czi" else "bioio"
    for package in ("bioio", f"bioio_{suffix[1:]}"):
        require(package, extra=extra, needed_for=f"reading {suffix[1:].upper()}")
    # By name, since it comes without types and only with its extra.
    return import_module("bioio").BioImage(path, **_BY_PLANES[suffix])


def _told(path: Path, call: Callable[[], Value]) -> Value:
    """The call's value; whatever a reader raises becomes one error."""
    if not path.is_file():
        raise InputError(
            "cannot open this file",
            where=path,
            got="no such file",
            expected="a readable image file",
            fix="check the path and its permissions",
        )
    try:
        return call()
    except CellSeg1RtError:
        raise
    except Exception as error:
        raise damaged_file(path.suffix[1:].upper(), path, error) from error
