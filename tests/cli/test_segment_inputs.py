"""``segment`` on what is more than a picture a file: stacks, channels, plates and lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from zarr_images import write_plate

from cellseg1_rt.formats import read_image

FAST = ("--points", 6, "--format", "csv")


@pytest.fixture
def pixels(sample) -> np.ndarray:
    return read_image(sample).pixels[:127, :131]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*_cells.csv"))


def test_channels_of_a_stack_by_name(run_command, pixels, tmp_path):
    path = tmp_path / "stack.ome.tif"
    stack = np.stack([np.stack([np.zeros_like(pixels), pixels]), np.stack([pixels, pixels])])
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    tifffile.imwrite(path, stack, metadata=metadata, ome=True)
    done = run_command("segment", path, "-o", tmp_path / "out", "--channels", "DAPI", *FAST)
    assert done.code == 0, done.err
    names = names_in(tmp_path / "out")
    assert names == ["stack.ome_z000_cells.csv", "stack.ome_z001_cells.csv"]
    first, second = ((tmp_path / "out" / name).read_text() for name in names)
    assert first == second  # the same pixels
    assert len(first.splitlines()) > 2
    header = json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[0])
    assert header["settings"]["channels"] == ["DAPI"]


def test_too_many_channels_name_the_option(run_command, pixels, tmp_path):
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, np.stack([pixels] * 5), imagej=True, metadata={"axes": "CYX"})
    done = run_command("segment", path, "-o", tmp_path / "out", *FAST)
    assert done.code == 1
    assert "too many channels; got 5 channels on axis C" in done.err
    assert "--channels 0,2" in done.err


def test_a_list_of_a_picture_a_plate_and_pages_of_which_nothing_is_told(
    run_command, sample, pixels, tmp_path
):
    shutil.copy(sample, tmp_path / "a.png")
    write_plate(tmp_path / "plate.ome.zarr", {"B/2/0": pixels}, "yx")
    pages = tmp_path / "pages.tif"
    tifffile.imwrite(pages, np.stack([pixels] * 2), photometric="minisblack", metadata=None)
    (tmp_path / "list.txt").write_text("a.png\nplate.ome.zarr\npages.tif\n")
    done = run_command("segment", f"@{tmp_path / 'list.txt'}", "-o", tmp_path / "out", *FAST)
    assert done.code == 0, done.err
    assert names_in(tmp_path / "out") == [
        "a_cells.csv", "pages_p000_cells.csv", "pages_p001_cells.csv", "plate_B2_0_cells.csv",
    ]  # fmt: skip
    assert f"note: {pages}: 2 pages without named axes are taken for 2 images" in done.err


def test_a_choice_that_is_none(run_command, sample, tmp_path):
    done = run_command("segment", sample, "-o", tmp_path / "out", "--channels", "0,,1", *FAST)
    assert done.code == 2
    assert "--channels: not a choice of channels; got '0,,1'" in done.err
    assert not (tmp_path / "out").exists()
