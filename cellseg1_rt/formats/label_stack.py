"""Label maps of a stack as one OME-TIFF, slice by slice. Imports numpy; tifffile inside."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.label_rows import BIG_TIFF_BYTES

__all__ = ["write_label_stack"]


def write_label_stack(
    path: str | PathLike[str],
    slices: Iterator[NDArray[np.uint32]],
    shape: tuple[int, int, int],
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write labels as a deflate-compressed OME-TIFF with the axes Z, Y and X, always uint32.

    Parameters
    ----------
    slices : uint32 [H, W], as many as ``shape`` says; one is in memory at a time.
    shape : (slices, height, width).
    pixel_size_um : micrometres a pixel (y, x).
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": "ZYX", "Name": "labels"}
    if pixel_size_um is not None:
        for axis, size in zip("YX", pixel_size_um, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    n_bytes = 4 * shape[0] * shape[1] * shape[2]
    with atomic_path(Path(path)) as temporary:
        tifffile.imwrite(
            temporary,
            slices,
            shape=shape,
            dtype=np.uint32,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
            software="cellseg1-rt",
            bigtiff=n_bytes >= BIG_TIFF_BYTES,
            maxworkers=1,
        )
