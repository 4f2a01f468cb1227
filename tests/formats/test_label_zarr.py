from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from label_scenes import EMPTY, LARGE, many_cells
from ome_zarr.format import FormatV04
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Multiscales, Reader

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats import write_label_zarr
from cellseg1_rt.formats.label_zarr import create_label_zarr, fill_pyramid


def read_levels(path):
    """As the OME's own reader gives them: levels and the scale of each, full size first."""
    location = parse_url(f"{path}/labels", fmt=FormatV04())
    _, node = list(Reader(location)())
    assert {type(spec) for spec in node.specs} == {Label, Multiscales}
    scales = [step["scale"] for (step,) in node.metadata["coordinateTransformations"]]
    return [np.asarray(level) for level in node.data], scales, node.metadata


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


SCENES = {
    "blobs": LARGE["blobs"],
    "sample": LARGE["sample_tissue"],
    "empty": EMPTY,
    "one_pixel": np.ones((1, 1), np.uint8),
    "large": np.random.default_rng(2).integers(0, 900, (1031, 613)).astype(np.int64),
    "one_more_than_a_chunk": np.random.default_rng(3).integers(0, 9, (513, 5)),
    "many": many_cells(),
}


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_the_omes_reader_gives_the_labels_and_a_pyramid_of_them(tmp_path, labels):
    write_label_zarr(tmp_path / "a.ome.zarr", labels, (0.5, 0.25))
    levels, scales, metadata = read_levels(tmp_path / "a.ome.zarr")
    assert levels[0].dtype == (np.uint16 if labels.max() < 65_536 else np.uint32)
    for n, (level, scale) in enumerate(zip(levels, scales, strict=True)):
        np.testing.assert_array_equal(level, labels[:: 2**n, :: 2**n])
        assert scale == [0.5 * 2**n, 0.25 * 2**n]
    assert max(levels[-1].shape) <= 512
    assert all(max(level.shape) > 512 for level in levels[:-1])
    unit = {"type": "space", "unit": "micrometer"}
    assert metadata["axes"] == [{"name": "y", **unit}, {"name": "x", **unit}]
    assert metadata["name"] == "cells"


def test_the_metadata_fits_the_models_of_the_specification(tmp_path):
    models = pytest.importorskip("ome_zarr_models.v04.image_label")
    for pixel_size in (None, (0.5, 0.25)):
        write_label_zarr(tmp_path / "a.ome.zarr", LARGE["blobs"], pixel_size)
        group = zarr.open_group(tmp_path / "a.ome.zarr" / "labels" / "cells", mode="r")
        found = models.ImageLabel.from_zarr(group).attributes
        assert found.image_label.version == "0.4"
        assert {axis.unit for axis in found.multiscales[0].axes} == {
            "micrometer" if pixel_size else None
        }


def test_chunks_are_bounded_and_background_takes_none(tmp_path):
    labels = np.zeros((1301, 1511), np.uint16)
    labels[700, 900] = 3
    write_label_zarr(tmp_path / "a.ome.zarr", labels)
    full = tmp_path / "a.ome.zarr" / "labels" / "cells" / "0"
    described = json.loads((full / ".zarray").read_text())
    assert (described["chunks"], described["zarr_format"]) == ([512, 512], 2)
    assert described["compressor"] == {"id": "zlib", "level": 6}
    chunks = [each for each in full.rglob("*") if each.is_file() and each.name[0] != "."]
    assert [each.relative_to(full).as_posix() for each in chunks] == ["1/1"]


def test_a_map_written_in_blocks_is_the_same(tmp_path):
    labels = SCENES["large"].astype(np.uint16)
    write_label_zarr(tmp_path / "whole", labels, (0.5, 0.25))
    levels = create_label_zarr(tmp_path / "blocks", labels.shape, labels.dtype, (0.5, 0.25))
    for top in range(0, labels.shape[0], 512):
        for left in range(0, labels.shape[1], 512):
            block = np.s_[top : top + 512, left : left + 512]
            levels[0][block] = labels[block]
    fill_pyramid(levels)
    assert files_of(tmp_path / "blocks") == files_of(tmp_path / "whole")


def test_an_older_folder_is_replaced_and_bytes_are_equal(tmp_path):
    path = tmp_path / "a.ome.zarr"
    write_label_zarr(path, SCENES["large"])
    (path / "left behind").write_text("x")
    write_label_zarr(path, LARGE["blobs"], (0.5, 0.25))
    first = files_of(path)
    write_label_zarr(path, LARGE["blobs"], (0.5, 0.25))
    assert files_of(path) == first
    assert "left behind" not in first
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.ome.zarr"
    write_label_zarr(path, LARGE["blobs"])
    before = files_of(path)

    def fail(levels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cellseg1_rt.formats.label_zarr.fill_pyramid", fail)
    with pytest.raises(OSError, match="No space left"):
        write_label_zarr(path, LARGE["sample_nuclei"])
    assert files_of(path) == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_no_label_map_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a label map; got float64 \(3, 5\); expected integ"):
        write_label_zarr(tmp_path / "a.ome.zarr", np.zeros((3, 5)))
    assert not any(tmp_path.iterdir())


def test_what_is_missing_is_told_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg1_rt.extras.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"'zarr', which is not installed\. Fix: .*\[zarr\]"
    ):
        write_label_zarr(tmp_path / "a.ome.zarr", LARGE["blobs"])
    assert not any(tmp_path.iterdir())
