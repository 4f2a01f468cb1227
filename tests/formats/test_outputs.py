"""Every format through the one function that jobs call."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from label_scenes import EMPTY, LARGE
from pyarrow import parquet
from roifile import roiread

from cellseg1_rt.errors import ConfigError, MissingExtraError
from cellseg1_rt.formats import OUTPUT_SUFFIXES, read_annotation, read_labels, write_output
from cellseg1_rt.formats.images import Image
from cellseg1_rt.formats.outputs import require_for_outputs
from cellseg1_rt.results import Cells, Result

LABELS = LARGE["blobs"]


def result_of(labels):
    count = int(labels.max())
    positions = [np.nonzero(labels == n) for n in range(1, count + 1)]
    boxes = [(x.min(), y.min(), x.max(), y.max()) for y, x in positions]
    centres = [(x.mean(), y.mean()) for y, x in positions]
    share = np.linspace(0.5, 1, count, dtype=np.float32)
    return Result(
        labels,
        Cells(
            label=np.arange(1, count + 1, dtype=np.int32),
            area_px=np.bincount(labels.ravel(), minlength=count + 1)[1:],
            box_xyxy=np.array(boxes, np.int32).reshape(-1, 4),
            centroid_xy=np.array(centres, np.float64).reshape(-1, 2),
            score=share,
            stability=share[::-1].copy(),
            point_xy=np.array(centres, np.float32).reshape(-1, 2),
        ),
    )


def image_of(shape, pixel_size=(0.5, 0.25)):
    pixels = np.random.default_rng(5).integers(0, 60_000, (*shape, 3), np.uint16)
    return Image(pixels, pixel_size, Path("cells.tif"))


def write(folder, name, labels=LABELS, *, image=None, resize=None):
    path = folder / f"cells{OUTPUT_SUFFIXES[name]}"
    image = image_of(labels.shape) if image is None else image

    def rgb():
        assert name == "overlay", "made for nothing"
        return np.zeros((*labels.shape, 3), np.uint8)

    write_output(name, path, image, result_of(labels), resize=resize, rgb=rgb)
    return path


def bytes_of(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.name, file.read_bytes()) for file in files if file.is_file()]


@pytest.mark.parametrize("labels", [LABELS, EMPTY], ids=["cells", "no_cells"])
@pytest.mark.parametrize("name", OUTPUT_SUFFIXES)
def test_each_format_is_written_whole_with_bytes_that_do_not_change(
    tmp_path, monkeypatch, name, labels
):
    path = write(tmp_path, name, labels)
    first = bytes_of(path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 99_999)
    assert bytes_of(write(tmp_path, name, labels)) == first
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def labels_in(path):
    if path.suffix == ".zarr":
        return zarr.open_array(path / "labels" / "cells" / "0", mode="r")[...]
    if path.suffix in (".zip", ".geojson"):
        return read_annotation(path, LABELS.shape)
    return read_labels(path)


@pytest.mark.parametrize("name", ["tif", "ome", "zarr", "png", "roi", "geojson"])
def test_all_label_maps_and_outlines_hold_the_same_cells(tmp_path, name):
    np.testing.assert_array_equal(labels_in(write(tmp_path, name)), LABELS)


def columns_in(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    elif path.suffix == ".parquet":
        rows = parquet.read_table(path).to_pylist()
    else:
        features = json.loads(path.read_text())["features"]
        rows = [each["properties"]["measurements"] for each in features]
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


@pytest.mark.parametrize("name", ["csv", "geojson", "parquet"])
def test_all_tables_hold_the_same_measurements(tmp_path, name):
    found = columns_in(write(tmp_path, name))
    image = image_of(LABELS.shape)
    for n in range(1, LABELS.max() + 1):
        own = image.pixels[np.equal(LABELS, n)]
        assert found["area_um2"][n - 1] == pytest.approx(len(own) * 0.125)
        for channel in range(3):
            values = own[:, channel]
            assert found[f"mean_{channel}"][n - 1] == pytest.approx(values.mean())
            assert found[f"std_{channel}"][n - 1] == pytest.approx(values.std())
            assert found[f"min_{channel}"][n - 1] == values.min()
            assert found[f"max_{channel}"][n - 1] == values.max()
    assert "mean_3" not in found


def test_stretched_images_keep_their_frames(tmp_path):
    # 61 x 83 px of 0.5 x 0.25 um, stretched to 97 px a side.
    image, resize = image_of((61, 83)), 97
    labels = np.zeros((resize, resize), np.uint16)
    labels[10:30, 20:50] = 1
    paths = {
        name: write(tmp_path, name, labels, image=image, resize=resize)
        for name in ("tif", "ome", "zarr", "roi", "geojson", "csv")
    }
    size = 0.5 * 61 / 97, 0.25 * 83 / 97
    with tifffile.TiffFile(paths["ome"]) as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == pytest.approx(size)
    group = zarr.open_group(paths["zarr"] / "labels" / "cells", mode="r")
    (step,) = group.attrs["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert step["scale"] == pytest.approx(size)
    assert tifffile.imread(paths["tif"]).shape == (97, 97)

    left, right, top, bottom = 20 * 83 / 97, 50 * 83 / 97, 10 * 61 / 97, 30 * 61 / 97
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    (roi,) = roiread(paths["roi"])
    np.testing.assert_allclose(roi.coordinates(), corners, rtol=1e-6)
    (feature,) = json.loads(paths["geojson"].read_text())["features"]
    np.testing.assert_allclose(feature["geometry"]["coordinates"][0][:-1], corners)

    found = columns_in(paths["csv"])
    assert found["area_px"] == [600]
    assert found["area_um2"][0] == pytest.approx(600 * size[0] * size[1])
    assert found["width_um"][0] == pytest.approx(30 * size[1])
    rows = (2 * np.arange(10, 30) + 1) * 61 // 194
    columns = (2 * np.arange(20, 50) + 1) * 83 // 194
    own = image.pixels[rows[:, None], columns, 1]
    assert found["mean_1"][0] == pytest.approx(own.mean())


def test_an_unknown_format_is_refused(tmp_path):
    image, result = image_of(LABELS.shape), result_of(LABELS)
    with pytest.raises(ConfigError, match="unknown format; got 'bmp'; expected one of tif, ome, z"):
        write_output(
            "bmp", tmp_path / "a", image, result, resize=None, rgb=lambda: np.empty((0, 0, 3))
        )


def test_missing_packages_are_told_before_a_job(monkeypatch):
    require_for_outputs(OUTPUT_SUFFIXES)
    monkeypatch.setattr("cellseg1_rt.extras.find_spec", lambda name: None)
    require_for_outputs(set(OUTPUT_SUFFIXES) - {"zarr", "parquet"})
    for name, extra in (("zarr", "zarr"), ("parquet", "tables")):
        with pytest.raises(MissingExtraError, match=rf"the format {name} needs .*\[{extra}\]"):
            require_for_outputs(["tif", name])
