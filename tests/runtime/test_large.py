"""Large planes through the packaged bundle, and how a plane is measured before."""

from __future__ import annotations

import numpy as np
import pytest

import cellseg1_rt
from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats.planes import ArrayPlane
from cellseg1_rt.results import Cells
from cellseg1_rt.runtime.large import pieces_on, segment_plane, stats_of_plane
from cellseg1_rt.runtime.normalise import rgb_from_pixels, stats_from_pixels
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.runtime.tiles import plan_tiles


@pytest.fixture(scope="module")
def model() -> cellseg1_rt.Model:
    return cellseg1_rt.load("tiny", points_per_side=8)


@pytest.fixture(scope="module")
def plane(sample) -> np.ndarray:
    """Two copies of a sample side by side, 191×341 px of them."""
    pixels = cellseg1_rt.read_image(sample).pixels
    return np.tile(pixels if pixels.ndim == 2 else pixels[..., 0], (1, 2))[:191, :341].copy()


class Watched(ArrayPlane):
    """A plane that remembers the sizes of the windows it was asked for."""

    windows: list[tuple[int, int]] = []  # noqa: RUF012

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        found = super().read(rows, columns)
        self.windows.append(found.shape[:2])
        return found


class Chunked(ArrayPlane):
    @property
    def chunk_px(self):
        return 7, 300


def test_cells_away_from_the_seam_are_those_of_their_tile(model, plane):
    result = model.segment(plane, tile=200)
    assert result.labels.dtype == np.uint16
    assert result.labels.shape == plane.shape
    assert np.unique(result.labels).tolist() == list(range(len(result.cells) + 1))
    rgb = rgb_from_pixels(plane)
    compared = 0
    for start, end in ((0, 200), (141, 341)):
        own = segment_rgb(rgb[:, start:end], model.backend, model.settings)
        for x, y, label in zip(*own.cells.centroid_xy.T.astype(int), own.cells.label, strict=True):
            x0, _, x1, _ = own.cells.box_xyxy[label - 1] + start
            if (x1 < 130 or x0 > 211) and own.labels[y, x] == label:
                found = result.labels == result.labels[y, x + start]
                np.testing.assert_array_equal(found[:, start:end], own.labels == label)
                compared += 1
    assert compared > 5


def test_one_tile_is_the_image(model, plane):
    small = plane[:, :197]
    plan = plan_tiles(small.shape, 200, 50, 8)
    bands = []
    cells = segment_plane(
        ArrayPlane(small),
        plan,
        stats_from_pixels(small),
        pieces_on(model.backend, model.settings),
        model.settings,
        write=bands.append,
    )
    expected = model.segment(small)
    np.testing.assert_array_equal(np.concatenate(bands), expected.labels)
    for column in ("label", "area_px", "box_xyxy", "centroid_xy", "score", "stability", "point_xy"):
        np.testing.assert_array_equal(getattr(cells, column), getattr(expected.cells, column))


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_cells_do_not_depend_on_how_much_is_painted_at_once(model, plane, monkeypatch, rows):
    plan = plan_tiles(plane.shape, 200, 50, 8)

    def segmented() -> tuple[list[np.ndarray], Cells]:
        bands: list[np.ndarray] = []
        stats = stats_from_pixels(plane)
        tile = pieces_on(model.backend, model.settings)
        settings, source = model.settings, ArrayPlane(plane)
        cells = segment_plane(source, plan, stats, tile, settings, write=bands.append)
        return bands, cells

    whole, expected = segmented()
    monkeypatch.setattr("cellseg1_rt.runtime.large._BAND_PX", rows * plane.shape[1])
    bands, found = segmented()
    assert len(whole) == 1
    assert max(len(band) for band in bands) == rows
    labels, all_at_once = np.concatenate(bands), whole[0]
    pairs = np.unique(np.stack([labels.ravel(), all_at_once.ravel()], axis=1), axis=0)
    other = dict(pairs.tolist())
    assert len(pairs) == len(other) == len(expected) + 1  # one to one, and 0 is 0
    order = np.array([other[label] for label in found.label]) - 1
    for column in ("area_px", "box_xyxy", "centroid_xy", "score", "stability", "point_xy"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column)[order])
    seen_in = found.box_xyxy[:, 1] // rows
    assert (np.diff(seen_in) >= 0).all()  # numbered from the top down


def test_no_more_than_a_tile_is_read_at_once(model, plane):
    source = Watched(plane)
    Watched.windows.clear()
    plan = plan_tiles(plane.shape, 200, 50, 8)
    segment_plane(
        source,
        plan,
        stats_from_pixels(plane),
        lambda rgb, tile, plan: [],
        model.settings,
        write=lambda band: None,
    )
    assert Watched.windows == [(191, 200)] * 2


@pytest.mark.parametrize("kind", [ArrayPlane, Chunked])
@pytest.mark.parametrize("channels", [None, 2, 3])
def test_a_plane_is_measured_in_blocks(kind, channels):
    rng = np.random.default_rng(4)
    shape = (1031, 1301) if channels is None else (1031, 1301, channels)
    pixels = rng.integers(3, 60_000, shape).astype(np.uint16)
    if channels == 3:
        pixels[..., 2] = 0
    assert stats_of_plane(kind(pixels)) == stats_from_pixels(pixels)


def test_pixels_that_cannot_be_normalised_are_named_by_their_place():
    pixels = np.ones((1031, 1301), np.float32)
    pixels[1027, 1297] = np.nan
    with pytest.raises(InputError, match="big.tif: values that are not .* row 1027, column 1297"):
        stats_of_plane(ArrayPlane(pixels), "big.tif")
    with pytest.raises(InputError, match="an image without pixels"):
        stats_of_plane(ArrayPlane(np.ones((0, 5))))


def test_tiles_are_stretched_as_one_plane(model, plane):
    """Never by their own range: a dark tile beside a bright one stays dark."""
    pixels = np.full((131, 301), 10, np.uint16)
    pixels[:, 170:] = 1000
    seen = {}
    segment_plane(
        ArrayPlane(pixels),
        plan_tiles(pixels.shape, 131, 33, 5),
        stats_of_plane(ArrayPlane(pixels)),
        lambda rgb, tile, plan: seen.update({tile: (int(rgb.min()), int(rgb.max()))}) or [],
        model.settings,
        write=lambda band: None,
    )
    assert seen == {0: (0, 0), 1: (0, 255), 2: (255, 255)}


def test_choices(model, plane):
    whole = model.segment(plane, tile="none")
    np.testing.assert_array_equal(model.segment(plane, tile=341).labels, whole.labels)
    with pytest.raises(ConfigError, match="not a tile"):
        model.segment(plane, tile="half")
    with pytest.raises(InputError, match="an all-zero image"):
        model.segment(np.zeros((300, 421)), tile=200)


def test_many_files_with_tiles(model, plane, tmp_path):
    np.save(tmp_path / "large.npy", plane)
    np.save(tmp_path / "small.npy", plane[:, :197])
    paths = [tmp_path / "large.npy", tmp_path / "small.npy"]
    found = list(model.segment_many(paths, tile=200))
    assert [path for path, _ in found] == paths
    assert found[0][1].labels.shape == plane.shape
    np.testing.assert_array_equal(found[1][1].labels, model.segment(plane[:, :197]).labels)
