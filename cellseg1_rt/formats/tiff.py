"""TIFF: single planes and stacks, grey or with channels, as stored.

Reads channel stacks (ImageJ, OME-TIFF, planar RGB), tiles, pyramids (their full resolution), the
compressions that tifffile decodes by itself or pillow's libtiff does, and of stacks over z, time or
anything else one plane at a time. Values are not inverted where white is stored as zero.

Imports tifffile; pillow and opencv for what it cannot decode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.formats.channels import picked_channels
from cellseg1_rt.formats.decoding import Decoded, damaged_file, require_real_samples
from cellseg1_rt.formats.pixel_size import pixel_size_from_tiff
from cellseg1_rt.formats.plane_names import Listing, Scene, listing_of, scene_parts
from cellseg1_rt.formats.planes import ArrayPlane, ChannelChoice, PlaneAddress, PlaneSource
from cellseg1_rt.formats.tiff_scenes import TiffScene, open_tiff, scenes_of_tiff
from cellseg1_rt.formats.tiff_windows import TiffPlane

__all__ = ["decode_tiff", "list_tiff_planes", "open_tiff_plane"]

_LOSSY = (COMPRESSION.OJPEG, COMPRESSION.JPEG)
_ALL = slice(None)


def decode_tiff(path: Path) -> Decoded:
    """Decode the one plane of a TIFF file.

    Raises
    ------
    InputError : for a file that is cut off, a stack, several images, or a compression or colour
        model that cannot be decoded.
    Exception : whatever tifffile raises on a file that is damaged otherwise.
    """
    with open_tiff(path) as tif:
        scene = _only_scene(tif, path)
        page = scene.series.keyframe
        samples = TiffPlane(scene, (), path).read(_ALL, _ALL)
        if samples.shape[2] == 1:
            samples = samples[..., 0]
        size = _pixel_size_of(tif, scene)
    return Decoded(samples, _palette_of(page), size, page.compression in _LOSSY)


def list_tiff_planes(path: Path) -> Listing:
    """The planes of a TIFF file, in its order; pixels are not read.

    Pages that no description names the axis of are taken for an image each, which is noted.

    Raises
    ------
    InputError : for a file that is cut off or damaged, or whose axes are not those of planes.
    """
    with _damage_told(path), open_tiff(path) as tif:
        found = scenes_of_tiff(tif, path)
        parts = scene_parts([scene.series.name if scene.ome else "" for scene in found])
        scenes = [
            Scene(str(number) if len(found) > 1 else "", part, scene.stacked)
            for number, (scene, part) in enumerate(zip(found, parts, strict=True))
        ]
        pages = sum(math.prod(n for _, n in s.stacked) for s in found if _is_unnamed(s))
    listing = listing_of(scenes)
    if pages < 2:
        return listing
    return Listing(
        listing.planes,
        f"{path}: {pages} pages without named axes are taken for {pages} images; "
        "where they are channels, save it as ImageJ or OME-TIFF with its axes named",
    )


@contextmanager
def open_tiff_plane(
    path: Path, address: PlaneAddress | None, choice: ChannelChoice | None
) -> Iterator[PlaneSource]:
    """One plane of a TIFF file, to be read while the block lasts.

    Parameters
    ----------
    address : which; None where there is only one.
    choice : channels to keep; None keeps all, of which there may be at most four.

    Raises
    ------
    InputError : as ``decode_tiff``, for a damaged file, or if there is no such plane or channel.
    """
    with ExitStack() as stack:
        with _damage_told(path):
            tif = stack.enter_context(open_tiff(path))
            plane = _opened(tif, path, address, choice)
        yield plane


def _opened(
    tif: TiffFile, path: Path, address: PlaneAddress | None, choice: ChannelChoice | None
) -> PlaneSource:
    scene = _only_scene(tif, path) if address is None else _scene_at(tif, address, path)
    indices = () if address is None else tuple(index for _, index in address.at)
    require_real_samples(np.dtype(scene.series.dtype), scene.series.shape, path)
    size, palette = _pixel_size_of(tif, scene), _palette_of(scene.series.keyframe)
    if palette is not None:
        indexed = TiffPlane(scene, indices, path).read(_ALL, _ALL)[..., 0]
        kept = picked_channels(3, choice, where=path, axis="S")
        return ArrayPlane(palette[indexed][..., kept if len(kept) > 1 else kept[0]], size)
    names = () if scene.ome is None else scene.ome.channels
    axis, _ = scene.channel_axis
    named = names if len(names) == scene.channels else ()
    kept = picked_channels(scene.channels, choice, where=path, names=named, axis=axis)
    return TiffPlane(scene, indices, path, size, kept)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Whatever tifffile raises on damaged bytes, as the one error that it means."""
    try:
        yield
    except CellSeg1RtError:
        raise
    except Exception as error:
        raise damaged_file("TIFF", path, error) from error


def _only_scene(tif: TiffFile, path: Path) -> TiffScene:
    """The image of a file that holds one plane."""
    scenes = scenes_of_tiff(tif, path)
    if len(scenes) != 1:
        raise InputError(
            "not one image",
            where=path,
            got=f"{len(scenes)} images in {len(tif.pages)} pages",
            expected="one plane",
            fix="segment takes such files plane by plane; or save the plane as its own file",
        )
    (scene,) = scenes
    if scene.stacked:
        kept = [(axis, n) for axis, n in scene.axes if n > 1 or axis in "YX"]
        raise InputError(
            "a stack of planes",
            where=path,
            got=f"{math.prod(n for _, n in scene.stacked)} planes in {len(scene.series)} pages, "
            f"axes {''.join(axis for axis, _ in kept)}, shape {tuple(n for _, n in kept)}",
            expected="one plane, grey or with one channel axis",
            fix="segment takes stacks plane by plane; or save the plane as its own file, "
            "or name its channel axis (ImageJ or OME-TIFF)",
        )
    return scene


def _scene_at(tif: TiffFile, address: PlaneAddress, path: Path) -> TiffScene:
    scenes = scenes_of_tiff(tif, path)
    number = int(address.scene or 0)
    if number < len(scenes):
        lengths = scenes[number].stacked
        asked = address.at
        if [axis for axis, _ in lengths] == [axis for axis, _ in asked] and all(
            0 <= index < n for (_, index), (_, n) in zip(asked, lengths, strict=True)
        ):
            return scenes[number]
    raise InputError(
        "no such plane",
        where=path,
        got=str(address),
        expected="a plane that is in the file",
        fix="run the same command again: the file was changed since its planes were counted",
    )


def _is_unnamed(scene: TiffScene) -> bool:
    """Whether nothing says what its pages are, for which tifffile has the letters I and Q."""
    return any(axis in "IQ" for axis, _ in scene.stacked)


def _pixel_size_of(tif: TiffFile, scene: TiffScene) -> tuple[float, float] | None:
    if tif.ome_metadata:
        return None if scene.ome is None else scene.ome.pixel_size_um
    return pixel_size_from_tiff(tif, scene.series.keyframe)


def _palette_of(page: TiffPage) -> NDArray[np.uint8] | None:
    """uint8 [N, 3] where samples are indices of these colours."""
    if page.photometric != PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    colours: NDArray[Any] = page.colormap.T >> 8
    return colours.astype(np.uint8)
