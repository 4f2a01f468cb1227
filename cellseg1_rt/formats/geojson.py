"""GeoJSON as QuPath writes it: objects with polygons in pixels of the full-resolution image.

Takes a FeatureCollection, a list of features, one feature or a bare geometry. Annotations,
detections and cells are taken, each object as one cell, however many polygons it has; of a cell the
whole outline, not ``nucleusGeometry``. Points and lines have no area: they are left out, aloud. So
is an annotation that is the region in which cells were detected. Nothing in a file says how large
the image is.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.polygons import Polygon, ring_from_points, spans_from_polygons
from cellseg1_rt.formats.spans import labels_from_spans, listed

__all__ = ["is_geojson", "labels_from_geojson"]

_GEOMETRIES = (
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
)
_OBJECTS = ("annotation", "detection", "cell")


@dataclass(frozen=True)
class _Object:
    """A QuPath object: how messages call it, its kind, its outlines [N, 2] in px, z and t."""

    name: str
    kind: str
    polygons: tuple[Polygon, ...]
    plane: tuple[int, int]


def is_geojson(document: Any) -> bool:
    """Whether a parsed JSON document says that it is GeoJSON."""
    if isinstance(document, list):
        return bool(document) and is_geojson(document[0]) and not isinstance(document[0], list)
    return isinstance(document, dict) and document.get("type") in (
        "FeatureCollection",
        "Feature",
        *_GEOMETRIES,
    )


def labels_from_geojson(
    document: Any, path: Path, shape: tuple[int, int], say: Callable[[str], None]
) -> NDArray[np.int32]:
    """Paint a parsed document's objects, in its order, into labels int32 [H, W].

    Raises
    ------
    InputError : if it holds no object with an area, objects of several planes, or something else
        than features.
    """
    found: list[_Object] = []
    others: list[str] = []
    for number, feature in enumerate(_features(document, path), 1):
        read = _object_from_feature(feature, number, path)
        if isinstance(read, str):
            others.append(read)
        else:
            found.append(read)
    if others and not found:
        raise InputError(
            "no cells",
            where=path,
            got=listed(others),
            expected="annotations, detections or cells with polygons",
        )
    if others:
        say(f"{path.name}: left out, no outlines of cells: {listed(others)}")
    _require_one_plane(found, path)
    regions = _regions(found)
    if regions:
        names = listed([found[i].name for i in regions])
        say(f"{path.name}: left out, regions in which cells were detected: {names}")
    cells = [each for i, each in enumerate(found) if i not in regions]
    spans = spans_from_polygons([cell.polygons for cell in cells], shape)
    return labels_from_spans(spans, [cell.name for cell in cells], shape, path, say)


def _features(document: Any, path: Path) -> list[dict[str, Any]]:
    features = document
    if isinstance(document, dict):
        features = [document]
        if document["type"] == "FeatureCollection":
            features = document.get("features")
    if not isinstance(features, list) or not all(isinstance(each, dict) for each in features):
        raise InputError(
            "a collection without a list of features",
            where=path,
            got=type(features).__name__,
            expected="GeoJSON features",
            fix="export it again from QuPath: File, Export objects as GeoJSON",
        )
    return [
        each if each.get("type") == "Feature" else {"geometry": each, "properties": None}
        for each in features
    ]


def _object_from_feature(feature: dict[str, Any], number: int, path: Path) -> _Object | str:
    """The object, or in words what else it is."""
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        properties = {}
    name = f"feature {number}"
    if isinstance(properties.get("name"), str):
        name += f" ({properties['name']})"
    kind = properties.get("objectType", "annotation")
    geometry = feature.get("geometry")
    if kind not in _OBJECTS:
        return f"{name} ({kind})"
    if not isinstance(geometry, dict):
        return f"{name} (no geometry)"
    if geometry.get("type") not in _GEOMETRIES:
        raise InputError(
            f"{name} has a geometry that is not known",
            where=path,
            got=repr(geometry.get("type")),
            expected=", ".join(_GEOMETRIES),
        )
    polygons = tuple(_polygons(geometry, name, path))
    if not polygons:
        return f"{name} ({geometry['type']})"
    plane = geometry.get("plane")
    if not isinstance(plane, dict):
        plane = {}
    z, t = (value if isinstance(value := plane.get(axis), int) else 0 for axis in "zt")
    return _Object(name, kind, polygons, (z, t))


def _polygons(geometry: dict[str, Any], name: str, path: Path) -> Iterator[Polygon]:
    """The polygons in a geometry; none for points and lines."""
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for part in _listed_in(geometry, "geometries", name, path):
            if isinstance(part, dict):
                yield from _polygons(part, name, path)
    elif kind in ("Polygon", "MultiPolygon"):
        coordinates = _listed_in(geometry, "coordinates", name, path)
        for rings in coordinates if kind == "MultiPolygon" else [coordinates]:
            if not isinstance(rings, list):
                raise _not_nested(name, rings, path)
            yield tuple(ring_from_points(ring, name, path) for ring in rings)


def _listed_in(geometry: dict[str, Any], key: str, name: str, path: Path) -> list[Any]:
    values = geometry.get(key)
    if not isinstance(values, list):
        raise _not_nested(name, values, path)
    return values


def _not_nested(name: str, got: object, path: Path) -> InputError:
    return InputError(
        f"{name} has an outline that is not a list of rings",
        where=path,
        got=type(got).__name__,
        expected="lists of rings of points, nested as its type says",
    )


def _require_one_plane(objects: Sequence[_Object], path: Path) -> None:
    first_on: dict[tuple[int, int], str] = {}
    for each in objects:
        first_on.setdefault(each.plane, each.name)
    if len(first_on) > 1:
        raise InputError(
            "objects on several planes of a stack",
            where=path,
            got=listed([f"{name} on z {z}, t {t}" for (z, t), name in sorted(first_on.items())]),
            expected="objects on one plane",
            fix="export the objects of the plane to train on alone",
        )


def _regions(objects: Sequence[_Object]) -> set[int]:
    """Which objects are annotations whose box holds the boxes of two or more detections or cells.

    QuPath looks for cells inside an annotation and exports both; painted, it would be one huge cell
    between all the others.
    """
    if len({each.kind == "annotation" for each in objects}) < 2:
        return set()
    boxes = np.stack([_box(each.polygons) for each in objects])
    detected = boxes[[each.kind != "annotation" for each in objects]]
    return {
        i
        for i, each in enumerate(objects)
        if each.kind == "annotation"
        and np.count_nonzero(
            (detected[:, :2] >= boxes[i, :2]).all(1) & (detected[:, 2:] <= boxes[i, 2:]).all(1)
        )
        >= 2
    }


def _box(polygons: Sequence[Polygon]) -> NDArray[np.float64]:
    """x0, y0, x1, y1 in px; NaN, which lies in nothing, of polygons without points."""
    points = np.concatenate([np.empty((0, 2)), *(ring for each in polygons for ring in each)])
    if len(points) == 0:
        return np.full(4, np.nan)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
