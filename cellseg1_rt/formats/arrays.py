"""NPY and NIfTI: files that hold an array rather than a picture.

The array's own axes are kept: the first is read as rows, the second as columns. For NIfTI, whose
first axis is x by convention, that is what numpy shows of it, and what labels stored beside it in
the same format line up with.

Imports numpy; nibabel inside the NIfTI reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats.decoding import Decoded
from cellseg1_rt.formats.pixel_size import checked_pixel_size

__all__ = ["decode_nifti", "decode_npy"]

_UM_PER_NIFTI_UNIT = {"meter": 1e6, "mm": 1e3, "micron": 1.0}


def decode_npy(path: Path) -> Decoded:
    """Decode an array [H, W] or [H, W, C].

    Raises
    ------
    InputError : for Python objects, complex numbers and other things that are not samples.
    Exception : whatever numpy raises on a file that is cut off or damaged.
    """
    try:
        samples: NDArray[Any] = np.load(path, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise InputError(
            "an array of Python objects, which is not loaded because that could run code",
            where=path,
            got="dtype object",
            expected="integers, floats or booleans",
            fix="save intensities as uint8, uint16 or float32",
        ) from error
    return Decoded(samples)


def decode_nifti(path: Path) -> Decoded:
    """Decode a NIfTI plane: two axes, any further ones of length 1; RGB as a structured type.

    Raises
    ------
    InputError : for a volume.
    MissingExtraError : if nibabel is not installed.
    Exception : whatever nibabel raises on a file that is cut off or damaged.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "nifti", "reading NIfTI") from error
    # Read, not mapped: a map would keep the file open after this function.
    image: Any = nibabel.load(path, mmap=False)
    samples: NDArray[Any] = np.asanyarray(image.dataobj)
    if samples.ndim < 2 or any(length != 1 for length in samples.shape[2:]):
        raise InputError(
            "a volume" if samples.ndim > 2 else "not a plane",
            where=path,
            got=f"an array of shape {samples.shape}",
            expected="two axes, further ones of length 1",
            fix="save the slice to segment as its own file",
        )
    samples = samples.reshape(samples.shape[:2])
    if samples.dtype.names is not None and samples.dtype.names[:3] == ("R", "G", "B"):
        samples = np.stack([samples[name] for name in "RGB"], axis=-1)
    um = _UM_PER_NIFTI_UNIT.get(image.header.get_xyzt_units()[0])
    zooms = image.header.get_zooms()
    size = None if um is None else checked_pixel_size(zooms[0] * um, zooms[1] * um)
    return Decoded(samples, pixel_size_um=size)
