"""OME-Zarr images and plates, written by the OME's own library."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from ome_zarr.format import Format, FormatV04, FormatV05

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what the library itself still uses
    from ome_zarr.writer import write_image, write_plate_metadata, write_well_metadata

FORMATS = {"0.4": FormatV04(), "0.5": FormatV05()}


def group_at(path: Path, version: str) -> zarr.Group:
    return zarr.open_group(str(path), mode="a", zarr_format=FORMATS[version].zarr_format)


def write_zarr(
    path: Path,
    array: NDArray[Any],
    axes: str,
    version: str = "0.4",
    *,
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    pixel_size_um: tuple[float, float] | None = None,
    channels: list[str] | None = None,
) -> Path:
    """An image, with a smaller level that is not to be read."""
    fmt: Format = FORMATS[version]
    options: dict[str, Any] = {} if chunks is None else {"chunks": chunks}
    if shards is not None:
        options["shards"] = shards
    size = dict(zip("yx", pixel_size_um or (1.0, 1.0), strict=True))
    write_image(
        array,
        group_at(path, version),
        scale_factors=[2],
        fmt=fmt,
        axes=list(axes),
        axes_units=None if pixel_size_um is None else {"y": "micrometer", "x": "micrometer"},
        scale={axis: size.get(axis, 1.0) for axis in axes},
        storage_options=options,
        **({} if channels is None else {"omero": {"channels": [label(n) for n in channels]}}),
    )
    return path


def label(name: str) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": name, "color": "00FF00", "window": window}


def write_plate(
    path: Path, fields: dict[str, NDArray[Any]], axes: str, version: str = "0.4"
) -> Path:
    """A plate with an image for each of ``A/1/0`` and so on."""
    fmt = FORMATS[version]
    wells = list(dict.fromkeys(field.rpartition("/")[0] for field in fields))
    rows, columns = zip(*(well.split("/") for well in wells), strict=True)
    plate = group_at(path, version)
    write_plate_metadata(
        plate, list(dict.fromkeys(rows)), list(dict.fromkeys(columns)), wells, fmt=fmt
    )
    for well in wells:
        held = [field.rpartition("/")[2] for field in fields if field.startswith(f"{well}/")]
        write_well_metadata(plate.require_group(well), held, fmt=fmt)
    for field, array in fields.items():
        write_image(array, plate.require_group(field), scale_factors=[2], fmt=fmt, axes=list(axes))
    return path


def metadata_file(folder: Path) -> Path:
    """Where the attributes of a group are."""
    new = folder / "zarr.json"
    return new if new.exists() else folder / ".zattrs"


def change_metadata(folder: Path, change: Any) -> None:
    """Let ``change`` edit what NGFF says of a group."""
    path = metadata_file(folder)
    held = json.loads(path.read_text())
    told = held["attributes"]["ome"] if path.name == "zarr.json" else held
    change(told)
    path.write_text(json.dumps(held))


def random_image(*shape: int, seed: int = 5) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 60_000, shape).astype(np.uint16)
