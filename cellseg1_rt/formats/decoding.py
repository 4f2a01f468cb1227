"""From a file to its samples: the kind is told by content, the decoding left to one module a kind.

Knows no meaning of the samples: whether they are an image or a label map is decided by the caller.
Imports numpy; each kind's module, and so its library, only when such a file is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError, InputError

__all__ = [
    "NIFTI_SUFFIXES",
    "Decoded",
    "damaged_file",
    "decode_file",
    "kind_of_file",
    "require_real_samples",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

# First bytes, and the name used for the kind in messages.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x93NUMPY", "NPY"),
)


@dataclass(frozen=True)
class Decoded:
    """The samples of one plane, as stored.

    Attributes
    ----------
    samples : bool, integer or float, native byte order, [H, W] or [H, W, C] in RGB order; alpha is
        already dropped, H, W and C are at least 1.
    palette : uint8 [N, 3] RGB where ``samples`` [H, W] are indices of these colours, else None.
    pixel_size_um : micrometres a pixel (y, x) where the file says so in a unit that can be trusted.
    lossy : whether the compression may have changed the samples.
    """

    samples: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    pixel_size_um: tuple[float, float] | None = None
    lossy: bool = False


def decode_file(path: Path) -> Decoded:
    """Decode the one plane in ``path``.

    Raises
    ------
    InputError : if the file is missing, empty, cut off, damaged, of another kind, holds more than
        one plane, or holds samples that are not real numbers.
    MissingExtraError : for NIfTI, if nibabel is not installed.
    """
    kind = kind_of_file(path)
    try:
        decoded = _decode(path, kind)
    except CellSeg1RtError:
        raise
    # Decoders meet damaged bytes with every class of exception; all of them mean the same here.
    except Exception as error:
        raise damaged_file(kind, path, error) from error
    return _checked(decoded, path)


def damaged_file(kind: str, path: Path, error: Exception) -> InputError:
    """The error for a file of ``kind`` in which a decoder met ``error``."""
    return InputError(
        f"this {kind} file is cut off or damaged",
        where=path,
        got=f"{type(error).__name__}: {error}",
        expected=f"a whole {kind} file",
        fix="copy or save it again",
    )


def kind_of_file(path: Path) -> str:
    """What a file is by its first bytes: TIFF, PNG and so on.

    Raises
    ------
    InputError : if it cannot be opened, is empty, or of no known kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(
            "cannot open this file",
            where=path,
            got=error.strerror or type(error).__name__,
            expected="a readable image file",
            fix="check the path and its permissions",
        ) from error
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if start and path.name.lower().endswith(NIFTI_SUFFIXES):
        return "NIfTI"
    raise InputError(
        "not an image file of a known kind" if start else "the file is empty",
        where=path,
        got=f"first bytes {start[:8]!r}" if start else "0 bytes",
        expected="PNG, JPEG, TIFF, BMP, NPY or NIfTI",
        fix="convert it to TIFF or PNG" if start else "copy or save it again",
    )


def _decode(path: Path, kind: str) -> Decoded:
    if kind == "TIFF":
        from cellseg1_rt.formats.tiff import decode_tiff

        return decode_tiff(path)
    if kind == "NPY":
        from cellseg1_rt.formats.arrays import decode_npy

        return decode_npy(path)
    if kind == "NIfTI":
        from cellseg1_rt.formats.arrays import decode_nifti

        return decode_nifti(path)
    from cellseg1_rt.formats.raster import decode_raster

    return decode_raster(path, kind)


def require_real_samples(dtype: np.dtype[Any], shape: tuple[int, ...], path: Path) -> None:
    """Raise ``InputError`` unless samples are real numbers, and there are any."""
    if dtype.kind not in "buif":
        raise InputError(
            "samples that are not real numbers",
            where=path,
            got=f"dtype {dtype}",
            expected="integers, floats or booleans",
            fix="save intensities as uint8, uint16 or float32",
        )
    if 0 in shape:
        raise InputError(
            "an image without pixels",
            where=path,
            got=f"an array of shape {shape}",
            expected="at least 1 x 1 pixels",
        )


def _checked(decoded: Decoded, path: Path) -> Decoded:
    samples = decoded.samples
    if samples.ndim not in (2, 3):
        raise InputError(
            "not one plane",
            where=path,
            got=f"an array of shape {samples.shape}",
            expected="H x W or H x W x C",
            fix="save one plane a file",
        )
    require_real_samples(samples.dtype, samples.shape, path)
    native = np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("="))
    return Decoded(native, decoded.palette, decoded.pixel_size_um, decoded.lossy)
