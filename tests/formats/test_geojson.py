from __future__ import annotations

import json

import numpy as np
import pytest
from plain_filling import plain_polygon

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation

SHAPE = (41, 53)
OUTER = [[5.5, 4.0], [30.25, 6.0], [28.0, 25.5], [7.0, 29.0], [5.5, 4.0]]
HOLE = [[12.0, 10.0], [20.0, 12.5], [15.0, 20.0], [12.0, 10.0]]
APART = [[35.0, 5.0], [48.5, 7.0], [40.0, 19.0], [35.0, 5.0]]


def square(x, y, side=6):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def polygon(*rings, **fields):
    return {"type": "Polygon", "coordinates": list(rings), **fields}


def feature(geometry, kind="annotation", **fields):
    properties = {"objectType": kind, "isLocked": False}
    properties |= {key: fields.pop(key) for key in ("name", "classification") if key in fields}
    return {
        "type": "Feature",
        "id": "6a3c1f0e-5b1f-4a38-9f0e-000000000001",
        "geometry": geometry,
        "properties": properties,
        **fields,
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def read(tmp_path, document, said=None):
    path = tmp_path / "cells.geojson"
    path.write_text(json.dumps(document))
    said = [] if said is None else said
    return read_annotation(path, SHAPE, say=said.append)


CELL = feature(polygon(OUTER, HOLE))
DOCUMENTS = [
    ("collection", collection(CELL)),
    ("list", [CELL]),
    ("feature", CELL),
    ("geometry", polygon(OUTER, HOLE)),
]


@pytest.mark.parametrize("document", [d for _, d in DOCUMENTS], ids=[i for i, _ in DOCUMENTS])
def test_polygons_with_holes_in_each_kind_of_document(tmp_path, document):
    expected = plain_polygon([OUTER, HOLE], SHAPE).astype(np.int32)
    np.testing.assert_array_equal(read(tmp_path, document), expected, strict=True)


def test_all_polygons_of_an_object_are_one_cell(tmp_path):
    multi = {"type": "MultiPolygon", "coordinates": [[OUTER, HOLE], [APART]]}
    mixed = {"type": "GeometryCollection", "geometries": [polygon(APART), polygon(OUTER, HOLE)]}
    expected = plain_polygon([OUTER, HOLE], SHAPE) | plain_polygon([APART], SHAPE)
    for geometry in (multi, mixed):
        found = read(tmp_path, collection(feature(geometry)))
        np.testing.assert_array_equal(found, expected.astype(np.int32))


def test_overlapping_parts_are_united(tmp_path):
    multi = {"type": "MultiPolygon", "coordinates": [[square(5, 5)], [square(8, 8)]]}
    assert np.count_nonzero(read(tmp_path, collection(feature(multi)))) == 36 + 36 - 9


def test_a_cell_is_its_whole_outline_and_not_its_nucleus(tmp_path):
    cell = feature(polygon(OUTER), "cell", nucleusGeometry=polygon(HOLE))
    found = read(tmp_path, collection(cell))
    np.testing.assert_array_equal(found, plain_polygon([OUTER], SHAPE).astype(np.int32))


@pytest.mark.parametrize("kind", ["annotation", "detection", "cell"])
def test_objects_are_numbered_in_order_and_later_ones_lie_on_top(tmp_path, kind):
    objects = [feature(polygon(square(5 + 4 * i, 5 + 4 * i)), kind) for i in range(3)]
    expected = np.zeros(SHAPE, np.int32)
    expected[5:11, 5:11], expected[9:15, 9:15], expected[13:19, 13:19] = 1, 2, 3
    np.testing.assert_array_equal(read(tmp_path, collection(*objects)), expected)


def test_the_region_in_which_cells_were_detected_is_no_cell(tmp_path):
    said: list[str] = []
    objects = [
        feature(polygon(square(2, 2, 36)), name="tissue"),
        feature(polygon(square(5, 5)), "cell"),
        feature(polygon(square(20, 20)), "detection"),
        feature(polygon(square(19, 4, 8)), name="by hand"),
        feature(polygon(square(20, 5)), "cell"),
    ]
    labels = read(tmp_path, collection(*objects), said)
    assert said == [
        "cells.geojson: left out, regions in which cells were detected: feature 1 (tissue)"
    ]
    assert [np.count_nonzero(labels == i) for i in range(1, 6)] == [36, 36, 64 - 36, 36, 0]


def test_what_is_no_cell_is_named(tmp_path):
    said: list[str] = []
    objects = [
        feature({"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]}, name="seeds"),
        feature({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}),
        feature(polygon(square(5, 5)), "cell"),
        feature(polygon(square(9, 9)), "tmaCore", name="A-1"),
        feature(None, "annotation"),
        feature(polygon(square(200, 5)), "cell"),
    ]
    labels = read(tmp_path, collection(*objects), said)
    assert set(np.unique(labels)) == {0, 1}
    assert said == [
        "cells.geojson: left out, no outlines of cells: feature 1 (seeds) (MultiPoint), "
        "feature 2 (LineString), feature 4 (A-1) (tmaCore), feature 5 (no geometry)",
        "cells.geojson: left out, outside the image or around no pixel's centre: feature 6",
    ]


def test_objects_without_properties_are_taken(tmp_path):
    bare = {"type": "Feature", "geometry": polygon(square(5, 5)), "properties": None}
    assert np.count_nonzero(read(tmp_path, [bare, feature(polygon(square(20, 5)))]) == 1) == 36


def test_one_plane_is_read_and_several_are_refused(tmp_path):
    on_4 = feature(polygon(square(5, 5), plane={"c": -1, "z": 4, "t": 0}), name="a")
    also = feature(polygon(square(20, 5), plane={"c": 1, "z": 4, "t": 0}))
    on_7 = feature(polygon(square(20, 20), plane={"c": -1, "z": 7, "t": 1}))
    assert read(tmp_path, collection(on_4, also)).max() == 2
    with pytest.raises(InputError, match=r"got feature 1 \(a\) on z 4, t 0, feature 2 on z 7, t 1"):
        read(tmp_path, collection(on_4, on_7))


BAD = [
    ("no_features", {"type": "FeatureCollection"}, "without a list of features; got NoneType"),
    ("not_objects", {"type": "FeatureCollection", "features": [3]}, "without a list of features"),
    ("none", collection(), "no cells; got a file without outlines"),
    (
        "points",
        collection(feature({"type": "Point", "coordinates": [3, 4]})),
        r"no cells; got feature 1 \(Point\); expected annotations, detections or cells",
    ),
    (
        "unknown",
        collection(feature({"type": "Circle", "radius": 3})),
        "feature 1 has a geometry that is not known; got 'Circle'; expected Polygon, Multi",
    ),
    (
        "too_flat",
        collection(feature({"type": "Polygon", "coordinates": OUTER})),
        "feature 1 has an outline that is not a list of points",
    ),
    (
        "multi_too_flat",
        collection(feature({"type": "MultiPolygon", "coordinates": [3]})),
        "feature 1 has an outline that is not a list of rings; got int",
    ),
    (
        "no_coordinates",
        collection(feature({"type": "Polygon"})),
        "feature 1 has an outline that is not a list of rings; got NoneType",
    ),
    (
        "outside",
        collection(feature(polygon(square(500, 500)))),
        "no cells; got 1 outlines, none around the centre of a pixel.*Fix: check that the outlines",
    ),
]


@pytest.mark.parametrize(
    ("document", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_documents_that_cannot_be_used(tmp_path, document, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, document)


def test_the_image_size_must_be_given(tmp_path):
    (tmp_path / "cells.json").write_text(json.dumps(CELL))
    with pytest.raises(InputError, match="GeoJSON files do not say how large the image is"):
        read_annotation(tmp_path / "cells.json")
