"""TIFF planes that tifffile cannot decode by itself, through the libtiff in pillow and opencv.

LZW is the common one (Bio-Formats and many microscopes write it); JPEG, CCITT, CMYK and YCbCr come
along. Every plane must come out with the shape and at least the bits that its page declares: pillow
would cut 16-bit colour to 8 without a word.

Imports pillow, opencv and tifffile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from tifffile import PHOTOMETRIC, TiffPage

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.raster import samples_from_pillow

__all__ = ["plane_from_libtiff"]


def plane_from_libtiff(index: int, page: TiffPage, path: Path) -> NDArray[Any]:
    """The plane [H, W] or [H, W, 3] of page ``index``, counted in the file.

    It has the dtype of ``page``, the page that stands for all of its series; 8-bit for converted
    colour models.

    Raises
    ------
    InputError : naming the compression and colour model, if they cannot be decoded.
    """
    try:
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            raise ValueError("pillow inverts planes where white is stored as zero")
        if page.samplesperpixel > 1 and page.dtype is not None and page.dtype.itemsize > 1:
            return _plane_from_opencv(index, page, path)
        return _plane_from_pillow(index, page, path)
    except InputError:
        raise
    # libtiff's two wrappers fail on a missing codec and on damaged bytes with any exception.
    except Exception as error:
        raise InputError(
            "this TIFF file cannot be decoded",
            where=path,
            got=f"compression {_name(page.compression)}, colour model {_name(page.photometric)} "
            f"({type(error).__name__}: {error})",
            expected="an uncompressed, deflate, LZW or PackBits file, grey or RGB",
            fix="save it without compression, or: pip install imagecodecs",
        ) from error


def _plane_from_pillow(index: int, page: TiffPage, path: Path) -> NDArray[Any]:
    with TiffImagePlugin.TiffImageFile(path) as image:
        image.seek(index)
        image.load()
        plane, _ = samples_from_pillow(image, path)
        return _as_declared(plane, page)


def _plane_from_opencv(index: int, page: TiffPage, path: Path) -> NDArray[Any]:
    import cv2

    # Of anything else opencv may return samples in another order without an error.
    if index != 0 or page.photometric != PHOTOMETRIC.RGB or page.planarconfig != 1:
        raise ValueError(f"{page.samplesperpixel} samples of {page.bitspersample} bits")
    pixels: Any = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError("opencv cannot decode it")
    return _as_declared(np.asarray(pixels[..., 2::-1]), page)


def _as_declared(plane: NDArray[Any], page: TiffPage) -> NDArray[Any]:
    """``plane`` in the page's dtype, once its size and bits are found to be the declared ones."""
    declared = page.dtype
    if declared is None or plane.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError(f"decoded as {plane.shape}")
    if plane.dtype.itemsize < declared.itemsize or (plane.dtype.kind == "f") != (
        declared.kind == "f"
    ):
        raise ValueError(f"decoded as {plane.dtype} instead of {declared}")
    return plane.astype(declared)


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
