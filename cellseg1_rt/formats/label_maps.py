"""Label maps: integer planes in which 0 is background and every cell has its own number.

Reads what annotation tools write, writes what ImageJ, QuPath and napari open. Labels keep their
numbers; only colours are numbered anew. Imports numpy; pillow and tifffile inside the writers.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.decoding import Decoded, decode_file

__all__ = [
    "imagej_options",
    "labels_from_numbers",
    "read_labels",
    "samples_from_labels",
    "write_label_png",
    "write_label_tiff",
]

_UINT16_MAX, _INT32_MAX, _UINT32_MAX = 2**16 - 1, 2**31 - 1, 2**32 - 1


def read_labels(path: str | PathLike[str]) -> NDArray[np.int32] | NDArray[np.uint32]:
    """Read a label map from a PNG, BMP, TIFF, NPY or NIfTI file.

    Numbers are kept, gaps included; floats must be whole. In a colour map black is background and
    each other colour a cell; they are numbered 1..K by (red, green, blue). In a map with a palette
    the numbers are the indices if index 0 is black, else its colours count.

    Returns
    -------
    int32 [H, W], or uint32 where a label is above 2,147,483,647.

    Raises
    ------
    InputError : if the file cannot be read, or is lossy, negative, fractional, out of range, or has
        a number of channels other than 1 and 3.
    MissingExtraError : for NIfTI, if nibabel is not installed.
    """
    path = Path(path)
    decoded = decode_file(path)
    if decoded.lossy:
        raise InputError(
            "labels in a lossy compression, which has changed them",
            where=path,
            got="JPEG",
            expected="PNG, TIFF or NPY",
            fix="export the labels again in one of these",
        )
    samples = _numbers_or_colours(decoded)
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[..., 0]
    samples = _whole(samples, path)
    if samples.ndim == 2:
        return labels_from_numbers(samples, path)
    if samples.shape[2] != 3:
        raise InputError(
            "not a label map",
            where=path,
            got=f"{samples.shape[2]} channels",
            expected="1 channel of numbers, or 3 of colours",
        )
    return _labels_from_colours(samples, path)


def labels_from_numbers(
    samples: NDArray[Any], path: Path
) -> NDArray[np.int32] | NDArray[np.uint32]:
    """Whole numbers [H, W] as labels: int32, or uint32 where one is above 2,147,483,647.

    Raises
    ------
    InputError : if one is below 0 or above 4,294,967,295.
    """
    lowest, highest = int(samples.min()), int(samples.max())
    if lowest < 0 or highest > _UINT32_MAX:
        raise _out_of_range(lowest if lowest < 0 else highest, path)
    if highest <= _INT32_MAX:
        return samples.astype(np.int32)
    return samples.astype(np.uint32)


def samples_from_labels(
    labels: NDArray[Any], path: Path
) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """A label map as it is stored: uint16, or uint32 from label 65,536 on, rows together.

    Raises
    ------
    InputError : if ``labels`` is not integer [H, W] with numbers 0..4,294,967,295.
    """
    if _require_label_array(labels, path) <= _UINT16_MAX:
        return np.ascontiguousarray(labels, np.uint16)
    return np.ascontiguousarray(labels, np.uint32)


def write_label_tiff(
    path: str | PathLike[str],
    labels: NDArray[Any],
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a label map as a deflate-compressed TIFF: uint16, or uint32 from label 65,536 on.

    The description is ImageJ's, with the pixel size in microns, so ImageJ and tifffile read it back
    from either dtype. There is no predictor: ImageJ ignores it in deflate, and constant runs
    compress as well without. Equal arguments give equal bytes.

    Parameters
    ----------
    labels : integer [H, W], 0..4,294,967,295.
    pixel_size_um : micrometres a pixel (y, x).

    Raises
    ------
    InputError : if ``labels`` is not such an array.
    """
    import tifffile

    path = Path(path)
    samples = samples_from_labels(labels, path)
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary, samples, **imagej_options(int(samples.max()), pixel_size_um), maxworkers=1
        )


def imagej_options(highest: int, pixel_size_um: tuple[float, float] | None) -> dict[str, Any]:
    """What tifffile is told of a label map so that ImageJ reads it; ``highest`` is its maximum."""
    description = f"ImageJ=1.54f\nmin=0.0\nmax={float(highest)}\n"
    resolution = (1.0, 1.0)
    if pixel_size_um is not None:
        description += "unit=micron\n"
        resolution = (1.0 / pixel_size_um[1], 1.0 / pixel_size_um[0])
    return {
        "photometric": "minisblack",
        "compression": "zlib",
        "description": description,
        "metadata": None,
        "resolution": resolution,
        "resolutionunit": "NONE",
        "software": "cellseg1-rt",
    }


def write_label_png(path: str | PathLike[str], labels: NDArray[Any]) -> None:
    """Write a label map as a 16-bit grey PNG. Equal arguments give equal bytes.

    Parameters
    ----------
    labels : integer [H, W], 0..65,535.

    Raises
    ------
    InputError : if ``labels`` is not such an array.
    """
    from PIL import Image

    path = Path(path)
    highest = _require_label_array(labels, path)
    if highest > _UINT16_MAX:
        raise InputError(
            "a label that a PNG cannot hold",
            where=path,
            got=f"label {highest:,}",
            expected=f"at most {_UINT16_MAX:,}",
            fix="write .tif instead",
        )
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(labels, np.uint16)).save(temporary, format="PNG")


def _require_label_array(labels: NDArray[Any], path: Path) -> int:
    """The highest label of an array that is a label map."""
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "bui":
        raise InputError(
            "not a label map",
            where=path,
            got=f"{labels.dtype} {labels.shape}",
            expected="integers [H, W]",
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > _UINT32_MAX:
        raise _out_of_range(lowest if lowest < 0 else highest, path)
    return highest


def _out_of_range(label: int, path: Path) -> InputError:
    return InputError(
        "a label out of range", where=path, got=f"{label:,}", expected=f"0 to {_UINT32_MAX:,}"
    )


def _numbers_or_colours(decoded: Decoded) -> NDArray[Any]:
    if decoded.palette is None or not decoded.palette[0].any():
        return decoded.samples
    return np.asarray(decoded.palette[decoded.samples])


def _whole(samples: NDArray[Any], path: Path) -> NDArray[Any]:
    """``samples`` itself, or if it is floating point the same whole numbers as int64."""
    if samples.dtype.kind != "f":
        return samples
    bad = ~(np.isfinite(samples) & (np.trunc(samples) == samples))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0][:2])
        raise InputError(
            "a label that is not a whole number",
            where=path,
            got=f"{np.atleast_1d(samples[row, column])[0]} at row {row}, column {column}",
            expected="whole numbers",
        )
    return np.asarray(np.clip(samples, -(2.0**53), 2.0**53).astype(np.int64))


def _labels_from_colours(colours: NDArray[Any], path: Path) -> NDArray[np.int32]:
    """Number the colours [H, W, 3] of a map; black is 0."""
    lowest, highest = int(colours.min()), int(colours.max())
    if lowest < 0 or highest > _UINT16_MAX:
        raise InputError(
            "a colour out of range",
            where=path,
            got=f"{lowest if lowest < 0 else highest:,}",
            expected=f"0 to {_UINT16_MAX:,}",
        )
    red, green, blue = (colours[..., c].astype(np.int64) for c in range(3))
    found, ranks = np.unique(red << 32 | green << 16 | blue, return_inverse=True)
    first_rank = 0 if found[0] == 0 else 1
    return np.asarray(ranks.reshape(colours.shape[:2]) + first_rank, dtype=np.int32)
