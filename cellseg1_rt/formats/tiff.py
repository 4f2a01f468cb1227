"""TIFF: one plane, grey or with its channels last, as stored.

Reads single images, channel stacks (ImageJ, OME-TIFF, planar RGB), tiles, pyramids (their full
resolution) and the compressions that tifffile decodes by itself or pillow's libtiff does. Stacks
over z, time or anything else are refused. Values are not inverted where white is stored as zero.

Imports tifffile; pillow and opencv for what it cannot decode.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage, TiffPageSeries

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.decoding import Decoded
from cellseg1_rt.formats.pixel_size import pixel_size_from_tiff
from cellseg1_rt.formats.tiff_structure import cut_off_part

__all__ = ["decode_tiff"]

# tifffile logs what it finds odd. Where nobody configured logging, Python would print that to
# stderr, in front of the one line that says it better.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_AS_STORED = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
_LOSSY = (COMPRESSION.OJPEG, COMPRESSION.JPEG)
_ALPHA = (1, 2)  # ExtraSamples: associated, unassociated


def decode_tiff(path: Path) -> Decoded:
    """Decode the one plane of a TIFF file.

    Raises
    ------
    InputError : for a file that is cut off, a stack, several images, or a compression or colour
        model that cannot be decoded.
    Exception : whatever tifffile raises on a file that is damaged otherwise.
    """
    missing = cut_off_part(path)
    if missing is not None:
        raise _cut_off(path, missing)
    with TiffFile(path) as tif:
        series = _only_series(tif, path)
        page = series.keyframe
        shape, axes = _plane_axes(series, path)
        _require_whole_data(tif, series, path)
        samples, axes = _samples(series, page, shape, axes, path)
        palette = None
        if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None:
            palette = (page.colormap.T >> 8).astype(np.uint8)
        size = pixel_size_from_tiff(tif, page)
    return Decoded(_channels_last(samples, axes, page), palette, size, page.compression in _LOSSY)


def _cut_off(path: Path, got: str) -> InputError:
    return InputError(
        "this TIFF file is cut off",
        where=path,
        got=got,
        expected="a whole TIFF file",
        fix="copy or save it again",
    )


def _only_series(tif: TiffFile, path: Path) -> TiffPageSeries:
    every = [s for s in tif.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    if len(every) != 1 or every[0].is_multifile:
        raise InputError(
            "not one image",
            where=path,
            got="an image spread over several files"
            if len(every) == 1
            else f"{len(every)} images in {len(tif.pages)} pages",
            expected="one plane",
            fix="save the plane to segment as its own file",
        )
    (series,) = every
    images = int((tif.imagej_metadata or {}).get("images", 1))
    if images > 1 and series.kind != "imagej":
        raise _cut_off(path, f"fewer planes than the {images} that its description counts")
    return series


def _plane_axes(series: TiffPageSeries, path: Path) -> tuple[tuple[int, ...], str]:
    """Shape and axes without axes of length 1: Y, X and at most one of S (samples) or C."""
    kept = [
        (axis, length)
        for axis, length in zip(series.axes, series.shape, strict=True)
        if length != 1 or axis in "YX"
    ]
    axes, shape = "".join(axis for axis, _ in kept), tuple(length for _, length in kept)
    others = axes.replace("Y", "").replace("X", "")
    if len(axes) - len(others) != 2 or others not in ("", "S", "C"):
        raise InputError(
            "a stack of planes",
            where=path,
            got=f"{math.prod(shape[i] for i, a in enumerate(axes) if a not in 'YXSC')} "
            f"planes in {len(series.pages)} pages, axes {axes}, shape {shape}",
            expected="one plane, grey or with one channel axis",
            fix="save the plane to segment as its own file, "
            "or name its channel axis (ImageJ or OME-TIFF)",
        )
    return shape, axes


def _require_whole_data(tif: TiffFile, series: TiffPageSeries, path: Path) -> None:
    """Every strip and tile must lie in the file, and every page be there.

    tifffile pads the last strip and fills missing pages with zeros, without an error.
    """
    size = tif.filehandle.size
    for page in series.pages:
        if page is None:
            raise _cut_off(path, "a page that is not in it")
        for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + n_bytes > size:
                raise _cut_off(path, f"pixels up to byte {offset + n_bytes:,} of {size:,}")


def _samples(
    series: TiffPageSeries, page: TiffPage, shape: tuple[int, ...], axes: str, path: Path
) -> tuple[NDArray[Any], str]:
    """Samples and their axes; the axes change where a colour model was converted to RGB."""
    if page.photometric in _AS_STORED:
        try:
            return series.asarray(maxworkers=1).reshape(shape), axes
        except (ValueError, ImportError) as error:
            # Said by tifffile of a codec that only the imagecodecs package has.
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
    from cellseg1_rt.formats.tiff_fallback import planes_from_libtiff

    planes = planes_from_libtiff(series, page, path)
    if "C" in axes:
        return planes.reshape(shape), axes
    return planes[0], "YXS" if planes.ndim == 4 else "YX"


def _channels_last(samples: NDArray[Any], axes: str, page: TiffPage) -> NDArray[Any]:
    channel = axes.replace("Y", "").replace("X", "")
    samples = samples.transpose([axes.index(axis) for axis in f"YX{channel}"])
    if channel != "S":
        return samples
    extra = page.extrasamples
    fourth = page.photometric == PHOTOMETRIC.RGB and samples.shape[2] == 4
    has_alpha = len(extra) > 0 and extra[-1] in _ALPHA and samples.shape[2] == page.samplesperpixel
    if fourth or has_alpha:
        samples = samples[..., :-1]
    return samples[..., 0] if samples.shape[2] == 1 else samples
