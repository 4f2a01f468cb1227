from __future__ import annotations

import json

import numpy as np
import pytest
from label_scenes import EMPTY, LARGE, SMALL, many_cells
from plain_filling import plain_polygon

from cellseg1_rt.formats import read_annotation, write_detections

SCENES = SMALL | LARGE


def table_of(labels):
    count = int(labels.max())
    return {
        "label": np.arange(1, count + 1, dtype=np.int32),
        "area_px": np.bincount(labels.ravel(), minlength=count + 1)[1:],
        "score": np.linspace(0, 1, count, dtype=np.float32),
        "perimeter_px": np.arange(count) / 3,
    }


def features_of(path, labels, scale=(1.0, 1.0)):
    write_detections(path, labels, table_of(labels), scale)
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    return document["features"]


def polygons_of(feature):
    geometry = feature["geometry"]
    single = geometry["type"] == "Polygon"
    assert single or geometry["type"] == "MultiPolygon"
    return [geometry["coordinates"]] if single else geometry["coordinates"]


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_the_reader_gives_the_same_labels(tmp_path, labels):
    write_detections(tmp_path / "cells.geojson", labels, table_of(labels))
    found = read_annotation(tmp_path / "cells.geojson", labels.shape)
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("labels", SMALL.values(), ids=SMALL)
def test_detections_as_qupath_reads_them(tmp_path, labels):
    features = features_of(tmp_path / "cells.geojson", labels)
    table = table_of(labels)
    assert len(features) == labels.max()
    for i, feature in enumerate(features):
        assert feature["type"] == "Feature"
        assert feature["properties"] == {
            "objectType": "detection",
            "name": str(i + 1),
            "measurements": {
                "area_px": table["area_px"][i],
                "score": pytest.approx(table["score"][i], rel=1e-7),
                "perimeter_px": pytest.approx(table["perimeter_px"][i], rel=1e-8),
            },
        }
        mask = np.zeros(labels.shape, bool)
        for polygon in polygons_of(feature):
            for ring in polygon:
                assert len(ring) >= 5
                assert ring[0] == ring[-1]
                assert all(type(number) is int for point in ring for number in point)
            part = plain_polygon([ring[:-1] for ring in polygon], labels.shape)
            assert not (part & mask).any()
            mask |= part
        np.testing.assert_array_equal(mask, labels == i + 1)


def test_outlines_are_in_pixels_of_the_image(tmp_path):
    (feature,) = features_of(tmp_path / "cells.geojson", SMALL["full"], (1.75, 0.5))
    corners = [[0, 0], [12.25, 0], [12.25, 2.5], [0, 2.5], [0, 0]]
    assert feature["geometry"] == {"type": "Polygon", "coordinates": [corners]}


def test_more_cells_than_16_bits_can_number(tmp_path):
    labels = many_cells()
    write_detections(tmp_path / "cells.geojson", labels, table_of(labels))
    found = read_annotation(tmp_path / "cells.geojson", labels.shape)
    np.testing.assert_array_equal(found, labels)


def test_no_cells_is_an_empty_collection(tmp_path):
    assert features_of(tmp_path / "cells.geojson", EMPTY) == []


def test_equal_cells_give_equal_bytes(tmp_path):
    labels = LARGE["blobs"]
    for name in "ab":
        write_detections(tmp_path / name, labels, table_of(labels))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
