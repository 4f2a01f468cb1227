"""Label maps as OME-TIFF, with axes and pixel size in OME-XML. Imports numpy; tifffile inside."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.label_maps import samples_from_labels

__all__ = ["ome_options", "write_label_ome_tiff"]


def write_label_ome_tiff(
    path: str | PathLike[str],
    labels: NDArray[Any],
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a label map as a deflate-compressed OME-TIFF: uint16, or uint32 from label 65,536 on.

    The UUID that OME-XML asks for is made from the labels and the pixel size, so equal arguments
    give equal bytes.

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
    content = [samples.tobytes()]
    options = ome_options(samples.shape, samples.dtype, pixel_size_um, content)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, samples, **options, maxworkers=1)


def ome_options(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    pixel_size_um: tuple[float, float] | None,
    content: Iterable[bytes],
) -> dict[str, Any]:
    """What tifffile is told of a label map; ``content`` is its bytes, in parts of any size."""
    digest = hashlib.sha256(f"{shape} {dtype} {pixel_size_um}".encode())
    for part in content:
        digest.update(part)
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": "labels",
        "UUID": uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()).urn,
    }
    if pixel_size_um is not None:
        for axis, size in zip("YX", pixel_size_um, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    return {
        "ome": True,
        "photometric": "minisblack",
        "compression": "zlib",
        "metadata": metadata,
        "software": "cellseg1-rt",
    }
