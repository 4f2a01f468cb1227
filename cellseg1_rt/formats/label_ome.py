"""Label maps as OME-TIFF, with axes and pixel size in OME-XML. Imports numpy; tifffile inside."""

from __future__ import annotations

import hashlib
import uuid
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.label_maps import samples_from_labels

__all__ = ["write_label_ome_tiff"]


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
    content = hashlib.sha256(f"{samples.shape} {samples.dtype} {pixel_size_um}".encode())
    content.update(samples.tobytes())
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": "labels",
        "UUID": uuid.uuid5(uuid.NAMESPACE_OID, content.hexdigest()).urn,
    }
    if pixel_size_um is not None:
        for axis, size in zip("YX", pixel_size_um, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            samples,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
            software="cellseg1-rt",
            maxworkers=1,
        )
