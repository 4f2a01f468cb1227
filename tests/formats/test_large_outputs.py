"""Label maps written and measured window by window, against the writers of whole maps."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from label_scenes import EMPTY, LARGE, SMALL, many_cells
from PIL import Image as Picture

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats import Image, cell_windows, label_bands, measure_cells
from cellseg1_rt.formats.cell_windows import measure_in_windows, outlines_in_windows
from cellseg1_rt.formats.label_rows import LabelFile
from cellseg1_rt.formats.large_outputs import LargeResult, write_large_output
from cellseg1_rt.formats.outlines import outlines_from_labels
from cellseg1_rt.formats.outputs import OUTPUT_SUFFIXES, write_output
from cellseg1_rt.formats.planes import ArrayPlane
from cellseg1_rt.results import Cells, Result

SCENES = {**{name: SMALL[name] for name in ("hole", "touching", "two_pieces", "noise_7")}, **LARGE}
SIZE_UM = (0.31, 0.27)


def label_file(labels: np.ndarray, folder: Path, rows: int = 13) -> LabelFile:
    """The map in a file, added a few rows at a time."""
    held = LabelFile(labels.shape[1], folder)
    for top in range(0, len(labels), rows):
        held.add(labels[top : top + rows].astype(np.uint32))
    return held


def cells_of(labels: np.ndarray) -> Cells:
    count = int(labels.max())
    places = [np.nonzero(labels == label) for label in range(1, count + 1)]
    centres = np.array([(x.mean(), y.mean()) for y, x in places]).reshape(-1, 2)
    boxes = [(x.min(), y.min(), x.max(), y.max()) for y, x in places]
    return Cells(
        label=np.arange(1, count + 1, dtype=np.int32),
        area_px=np.array([len(y) for y, _ in places], np.int64),
        box_xyxy=np.array(boxes, np.int32).reshape(-1, 4),
        centroid_xy=centres,
        score=np.linspace(0.8, 0.99, count, dtype=np.float32),
        stability=np.linspace(0.6, 0.9, count, dtype=np.float32),
        point_xy=centres.astype(np.float32),
    )


NONE = cells_of(EMPTY)


def picture_of(labels: np.ndarray, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(11)
    return rng.integers(0, 60_000, (*labels.shape, channels)).astype(np.uint16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that maps of a few pixels are cut into several windows, strips and groups."""
    monkeypatch.setattr(cell_windows, "_BLOCK_PX", 17)
    monkeypatch.setattr(cell_windows, "_CELLS", 5)
    monkeypatch.setattr(label_bands, "_STRIP_BYTES", 700)
    monkeypatch.setattr(label_bands, "_PNG_ROWS", 7)


@pytest.mark.parametrize("name", SCENES)
def test_windows_of_a_file_are_those_of_the_map(name, tmp_path):
    labels = SCENES[name]
    held = label_file(labels, tmp_path)
    assert held.shape == labels.shape
    assert held.highest == labels.max()
    for rows, columns in (
        (slice(None), slice(None)),
        (slice(1, 4), slice(2, 5)),
        (slice(2, 1000), slice(3, 1000)),
        (slice(1, 1), slice(None)),
        (slice(0, 2), slice(None)),
    ):
        np.testing.assert_array_equal(held.read(rows, columns), labels[rows, columns])
    held.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCENES)
def test_measured_in_windows_as_in_one(name, tmp_path):
    labels, cells = SCENES[name], cells_of(SCENES[name])
    pixels = picture_of(labels)
    held = label_file(labels, tmp_path)
    found = measure_in_windows(held, cells.box_xyxy, ArrayPlane(pixels).read, SIZE_UM)
    expected = measure_cells(labels, pixels, SIZE_UM)
    for column in ("lowest", "highest"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
        assert getattr(found, column).dtype == getattr(expected, column).dtype
    for column in (
        *("perimeter_px", "perimeter_um", "eccentricity_px", "eccentricity_um"),
        *("mean", "deviation"),
    ):
        np.testing.assert_allclose(
            getattr(found, column), getattr(expected, column), rtol=1e-12, atol=1e-12
        )
    assert measure_in_windows(held, cells.box_xyxy, ArrayPlane(pixels).read).perimeter_um is None
    held.close()


@pytest.mark.parametrize("name", SCENES)
def test_outlined_in_windows_as_in_one(name, tmp_path):
    labels = SCENES[name]
    held = label_file(labels, tmp_path)
    found = list(outlines_in_windows(held, cells_of(labels).box_xyxy))
    expected = list(outlines_from_labels(labels))
    assert [one.label for one in found] == [one.label for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert len(one.polygons) == len(other.polygons)
        for polygon, same in zip(one.polygons, other.polygons, strict=True):
            for ring, same_ring in zip(polygon, same, strict=True):
                np.testing.assert_array_equal(ring, same_ring)
    held.close()


def written(
    name: str, labels: np.ndarray, folder: Path, cells: Cells | None = None
) -> tuple[Path, Path]:
    """One output by both ways."""
    cells, pixels = cells_of(labels) if cells is None else cells, picture_of(labels)
    large, whole = folder / "large", folder / "whole"
    large.mkdir()
    whole.mkdir()
    paths = large / f"a{OUTPUT_SUFFIXES[name]}", whole / f"a{OUTPUT_SUFFIXES[name]}"
    held = label_file(labels, folder)
    small = np.zeros((*labels.shape, 3), np.uint8)
    write_large_output(
        name,
        paths[0],
        ArrayPlane(pixels, SIZE_UM),
        LargeResult(held, cells),
        lambda side: (small, labels.astype(np.uint32)),
    )
    held.close()
    image = Image(pixels, SIZE_UM, Path("a.tif"))
    samples = labels.astype(np.uint16 if labels.max() < 2**16 else np.uint32)
    write_output(name, paths[1], image, Result(samples, cells), resize=None, rgb=lambda: small)
    return paths


@pytest.mark.parametrize("name", ["png", "roi", "geojson", "csv", "parquet", "overlay"])
@pytest.mark.parametrize("scene", ["blobs", "empty"])
def test_files_are_those_of_the_whole_map(name, scene, tmp_path):
    large, whole = written(name, LARGE["blobs"] if scene == "blobs" else EMPTY, tmp_path)
    if name == "png":
        np.testing.assert_array_equal(
            np.asarray(Picture.open(large)), np.asarray(Picture.open(whole))
        )
    elif name == "roi":
        with zipfile.ZipFile(large) as one, zipfile.ZipFile(whole) as other:
            assert one.namelist() == other.namelist()
            assert all(one.read(member) == other.read(member) for member in one.namelist())
    elif name == "geojson":
        assert json.loads(large.read_text()) == json.loads(whole.read_text())
    elif name == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        one, other = (parquet.read_table(path) for path in (large, whole))
        assert one.schema == other.schema
        for column in one.column_names:  # sums of squares are taken in another order
            np.testing.assert_allclose(one[column], other[column], rtol=1e-12)
    else:
        assert large.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["tif", "ome"])
@pytest.mark.parametrize("scene", ["blobs", "empty", "many"])
def test_tiffs_say_what_those_of_the_whole_map_say(name, scene, tmp_path):
    labels = {"blobs": LARGE["blobs"], "empty": EMPTY, "many": many_cells()}[scene]
    large, whole = written(name, labels, tmp_path, NONE)
    with tifffile.TiffFile(large) as one, tifffile.TiffFile(whole) as other:
        assert len(one.pages) == 1
        np.testing.assert_array_equal(one.pages[0].asarray(), labels)
        for tag in ("ImageDescription", "XResolution", "YResolution", "BitsPerSample", "Software"):
            same = other.pages[0].tags.get(tag)
            assert (same is None) == (one.pages[0].tags.get(tag) is None)
            assert same is None or one.pages[0].tags[tag].value == same.value
        assert one.pages[0].compression == other.pages[0].compression


def test_zarr_is_that_of_the_whole_map(tmp_path):
    zarr = pytest.importorskip("zarr")
    large, whole = written("zarr", np.tile(LARGE["blobs"], (9, 13))[:540, :1060], tmp_path, NONE)
    for level in "01":
        one, other = (zarr.open(str(path / "labels" / "cells" / level)) for path in (large, whole))
        np.testing.assert_array_equal(one[...], other[...])
        assert one.dtype == other.dtype
    metadata = [(path / "labels" / "cells" / ".zattrs").read_text() for path in (large, whole)]
    assert metadata[0] == metadata[1]


def test_more_labels_than_a_png_holds(tmp_path):
    held = label_file(many_cells(), tmp_path)
    with pytest.raises(InputError, match="a label that a PNG cannot hold"):
        write_large_output(
            "png",
            tmp_path / "a.png",
            ArrayPlane(many_cells()),
            LargeResult(held, NONE),
            lambda side: None,
        )
    with pytest.raises(ConfigError, match="unknown format; got 'bmp'; expected one of tif, ome"):
        write_large_output(
            "bmp", tmp_path / "a", ArrayPlane(EMPTY), LargeResult(held, NONE), lambda side: None
        )
    held.close()
