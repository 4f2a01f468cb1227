"""COCO's instance annotations: one JSON file for one image or many.

Polygons (several parts are one cell) and run-length masks, plain and compressed. A crowd
(``iscrowd``) is many objects in one mask, and a box alone has no outline: both are left out, aloud.
The image's size comes from the file. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.coco_runs import spans_from_rle
from cellseg1_rt.formats.polygons import Polygon, ring_from_points, spans_from_polygons
from cellseg1_rt.formats.spans import Spans, labels_from_spans, listed

__all__ = ["is_coco", "labels_from_coco"]


def is_coco(document: Any) -> bool:
    """Whether a parsed JSON document has COCO's two lists."""
    return isinstance(document, dict) and all(
        isinstance(document.get(key), list) for key in ("images", "annotations")
    )


def labels_from_coco(
    document: dict[str, Any],
    path: Path,
    shape: tuple[int, int] | None,
    image_name: str | None,
    say: Callable[[str], None],
) -> NDArray[np.int32]:
    """Paint the annotations of one image, in the file's order, into labels int32 [H, W].

    Parameters
    ----------
    document : the parsed file.
    shape : (height, width) that the image must have in it, or None.
    image_name : which image, with or without folder and suffix; may be None where there is one.

    Raises
    ------
    InputError : if the image is not in the file or not the only one of that name, has another size,
        or an annotation cannot be read.
    """
    image = _chosen_image(document["images"], path, image_name, say)
    size = _size_of_image(image, path, shape)
    left_out: dict[str, list[str]] = {}
    cells: dict[str, Spans | tuple[Polygon, ...]] = {}
    for number, annotation in enumerate(document["annotations"], 1):
        if not isinstance(annotation, dict):
            raise _not_coco(f"annotation {number} is", annotation, path)
        if annotation.get("image_id") != image.get("id"):
            continue
        name = f"annotation {number}"
        segmentation = annotation.get("segmentation")
        if annotation.get("iscrowd"):
            left_out.setdefault("crowds of many objects", []).append(name)
        elif not segmentation:
            left_out.setdefault("no outlines", []).append(name)
        elif isinstance(segmentation, dict):
            cells[name] = spans_from_rle(segmentation, size, name, path)
        else:
            cells[name] = _polygons(segmentation, name, path)
    for reason, names in left_out.items():
        say(f"{path.name}: left out, {reason}: {listed(names)}")
    drawn = {name: cell for name, cell in cells.items() if not isinstance(cell, Spans)}
    spans = dict(zip(drawn, spans_from_polygons(list(drawn.values()), size), strict=True))
    ordered = [cell if isinstance(cell, Spans) else spans[name] for name, cell in cells.items()]
    return labels_from_spans(ordered, list(cells), size, path, say)


def _chosen_image(
    images: list[Any], path: Path, image_name: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    if not images or not all(isinstance(image, dict) for image in images):
        raise _not_coco("the list of images is", images, path)
    names = [str(image.get("file_name")) for image in images]
    if len(images) == 1:
        (name,) = names
        if image_name is not None and _stem(name) != _stem(image_name):
            say(f"{path.name}: its one image, {name}, is taken for {image_name}")
        return dict(images[0])
    if image_name is None:
        chosen = list(range(len(images)))
    else:
        file_name = PureWindowsPath(image_name).name
        chosen = [i for i, name in enumerate(names) if PureWindowsPath(name).name == file_name]
        chosen = chosen or [i for i, name in enumerate(names) if _stem(name) == _stem(image_name)]
    if len(chosen) != 1:
        raise InputError(
            "annotations of several images" if chosen else "no annotations of this image",
            where=path,
            got=listed([names[i] for i in chosen] or names),
            expected="one image" if image_name is None else f"one image named {image_name}",
            fix="give the image's name as it is in the file",
        )
    return dict(images[chosen[0]])


def _stem(name: str) -> str:
    # A Windows path, because it splits at both kinds of slash.
    return PureWindowsPath(name).stem


def _size_of_image(
    image: dict[str, Any], path: Path, shape: tuple[int, int] | None
) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise InputError(
            f"the image {image.get('file_name')} without a size",
            where=path,
            got=f"height {height!r}, width {width!r}",
            expected="whole numbers of px above 0",
        )
    if shape is not None and (height, width) != shape:
        raise InputError(
            f"the image {image.get('file_name')} has another size than the one to label",
            where=path,
            got=f"{height} x {width} px",
            expected=f"{shape[0]} x {shape[1]} px",
            fix="export the annotations of this very image",
        )
    return height, width


def _polygons(segmentation: Any, name: str, path: Path) -> tuple[Polygon, ...]:
    if not isinstance(segmentation, list):
        raise _not_coco(f"the segmentation of {name} is", segmentation, path)
    polygons = []
    for numbers in segmentation:
        if not isinstance(numbers, list) or len(numbers) % 2 == 1:
            raise _not_coco(f"a polygon of {name} is", numbers, path)
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        polygons.append((ring_from_points(points, name, path),))
    return tuple(polygons)


def _not_coco(what: str, got: Any, path: Path) -> InputError:
    size = f" of {len(got)}" if isinstance(got, list) else ""
    return InputError(
        f"{what} not what COCO's format has there",
        where=path,
        got=f"{type(got).__name__}{size}",
        expected="images and annotations as objects, polygons as lists x0, y0, x1, y1, ...",
    )
