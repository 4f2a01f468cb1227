"""Labels from whatever an annotation tool saved: one entry point, the kind told by content.

Label maps and binary masks, ImageJ regions, QuPath's GeoJSON, COCO and Cellpose;
``docs/annotations.md`` says how each is exported. What a reader leaves out or decides, it says
aloud. Imports numpy; each kind's module, and so its library, only when such a file is met.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.formats.label_maps import labels_from_numbers, read_labels

__all__ = ["read_annotation"]

_ROI_STARTS = (b"Iout", b"PK\x03\x04", b"PK\x05\x06")
_NPY_START = b"\x93NUMPY"
_JSON_STARTS = (b"{", b"[")
_BOM_AND_SPACE = b"\xef\xbb\xbf \t\r\n"

_LABEL_MAP, _ROIS, _JSON, _CELLPOSE = "label map", "ImageJ ROI", "JSON", "Cellpose"
_READ = (
    "a label map or binary mask (PNG, TIFF, BMP, NPY, NIfTI), ImageJ ROIs (.roi, .zip), "
    "GeoJSON, COCO JSON or Cellpose's _seg.npy"
)

Say = Callable[[str], None]
Labels = NDArray[np.int32] | NDArray[np.uint32]


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def read_annotation(
    path: str | PathLike[str],
    shape: tuple[int, int] | None = None,
    *,
    image_name: str | None = None,
    say: Say = _say_on_stderr,
) -> Labels:
    """Read the cells that somebody outlined in an image.

    Label maps keep their numbers. A map with one number besides 0, in several pieces (8-connected),
    is a binary mask: its pieces are numbered 1..K in reading order, aloud. Outlines are numbered
    1..K in the order of the file; a pixel belongs to an outline if its centre is inside, and where
    outlines overlap, later ones lie on top.

    Parameters
    ----------
    path : a label map or binary mask (PNG, TIFF, BMP, NPY, NIfTI), ImageJ ROIs (.roi, .zip),
        GeoJSON, COCO JSON or Cellpose's ``_seg.npy``. The suffix is not looked at.
    shape : (height, width) of the image in px. ROIs and GeoJSON do not know it and need it; the
        others are checked against it.
    image_name : which image of a COCO file, with or without folder and suffix.
    say : gets each line about something left out or decided. Lines go to stderr by default.

    Returns
    -------
    int32 [H, W], or uint32 where a label is above 2,147,483,647; 0 is background, and there is at
    least one cell.

    Raises
    ------
    InputError : if the file is missing, empty, cut off, damaged or of another kind, holds no cell
        or more than one plane, or is of another size than ``shape``.
    MissingExtraError : for NIfTI, if nibabel is not installed.
    """
    path = Path(path)
    shape = None if shape is None else (int(shape[0]), int(shape[1]))
    kind = _kind_of_file(path)
    try:
        labels = _read(path, kind, shape, image_name, say)
    except CellSeg1RtError:
        raise
    # Damaged bytes make decoders raise every class of exception; all of them mean the same here.
    except Exception as error:
        raise InputError(
            f"this {kind} file is cut off or damaged",
            where=path,
            got=f"{type(error).__name__}: {error}",
            expected=f"a whole {kind} file",
            fix="copy or export it again",
        ) from error
    return _checked(labels, shape, path)


def _checked(labels: Labels, shape: tuple[int, int] | None, path: Path) -> Labels:
    if shape is not None and labels.shape != shape:
        raise InputError(
            "labels of another size than the image",
            where=path,
            got=f"{labels.shape[0]} x {labels.shape[1]} px",
            expected=f"{shape[0]} x {shape[1]} px",
            fix="export the labels of this very image, at its full size",
        )
    if not labels.any():
        raise InputError(
            "no cells",
            where=path,
            got="0 everywhere",
            expected="at least one labelled cell",
        )
    return labels


def _kind_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return _LABEL_MAP  # its reader says why the file cannot be opened
    if start.startswith(_ROI_STARTS):
        return _ROIS
    if start.lstrip(_BOM_AND_SPACE).startswith(_JSON_STARTS):
        return _JSON
    if start.startswith(_NPY_START):
        return _kind_of_npy(path)
    return _LABEL_MAP


def _kind_of_npy(path: Path) -> str:
    from cellseg1_rt.formats.cellpose import holds_objects

    try:
        return _CELLPOSE if holds_objects(path) else _LABEL_MAP
    # numpy meets a damaged header with many; the reader of arrays says what is wrong with it.
    except Exception:
        return _LABEL_MAP


def _read(
    path: Path, kind: str, shape: tuple[int, int] | None, image_name: str | None, say: Say
) -> Labels:
    if kind == _ROIS:
        from cellseg1_rt.formats.imagej_rois import labels_from_rois

        return labels_from_rois(path, _required(shape, kind, path), say)
    if kind == _JSON:
        return _labels_from_json(path, shape, image_name, say)
    if kind == _CELLPOSE:
        from cellseg1_rt.formats.cellpose import masks_from_cellpose

        return labels_from_numbers(masks_from_cellpose(path), path)
    try:
        labels = read_labels(path)
    except InputError as error:
        if error.what != "not an image file of a known kind":
            raise
        raise InputError(
            "not an annotation of a known kind", where=path, got=error.got, expected=_READ
        ) from error
    return _pieces_of_binary(labels, path, say)


def _required(shape: tuple[int, int] | None, kind: str, path: Path) -> tuple[int, int]:
    if shape is None:
        raise InputError(
            f"{kind} files do not say how large the image is",
            where=path,
            expected="shape=(height, width)",
            fix="give the image's size in px",
        )
    return shape


def _labels_from_json(
    path: Path, shape: tuple[int, int] | None, image_name: str | None, say: Say
) -> NDArray[np.int32]:
    from cellseg1_rt.formats.coco import is_coco, labels_from_coco
    from cellseg1_rt.formats.geojson import is_geojson, labels_from_geojson

    document: Any = json.loads(path.read_bytes())
    if is_coco(document):
        return labels_from_coco(document, path, shape, image_name, say)
    if is_geojson(document):
        return labels_from_geojson(document, path, _required(shape, "GeoJSON", path), say)
    if isinstance(document, dict):
        got = f"an object with {', '.join(map(repr, list(document)[:5])) or 'nothing in it'}"
    else:
        got = f"a list of {len(document)}"
    raise InputError(
        "JSON of another kind",
        where=path,
        got=got,
        expected="GeoJSON (type Feature or FeatureCollection) or COCO (images and annotations)",
        fix="export the cells again in one of these",
    )


def _pieces_of_binary(labels: Labels, path: Path, say: Say) -> Labels:
    """The connected pieces of a map that has one number besides 0; any other map as it is."""
    cells = labels != 0
    if not cells.any() or np.ptp(labels[cells]) != 0:
        return labels
    from scipy import ndimage

    pieces, count = ndimage.label(cells, structure=np.ones((3, 3)))
    if count == 1:
        return labels
    say(f"{path.name}: two values, so its {count:,} connected pieces are taken as cells")
    return np.asarray(pieces, np.int32)
