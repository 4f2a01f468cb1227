"""``cellseg1-rt segment --tile``: what is asked for, what is written, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cellseg1_rt.formats import read_labels

FEW = ("-m", "tiny", "--points", "4", "--threads", "1")


@pytest.fixture
def image(sample, tmp_path):
    pixels = np.asarray(Image.open(sample).convert("L"))
    path = tmp_path / "wide.png"
    Image.fromarray(np.tile(pixels, (1, 2))[:101, :211]).save(path)
    return path


def test_tiles_are_asked_for(run_command, image, tmp_path):
    out = tmp_path / "out"
    finished = run_command("segment", image, "-o", out, *FEW, "--tile", "150", "--format", "tif")
    assert finished.code == 0
    assert read_labels(out / "wide_labels.tif").shape == (101, 211)
    first = json.loads((out / "journal.jsonl").read_text().splitlines()[0])
    assert first["settings"]["tile"] == 150
    again = run_command("segment", image, "-o", out, *FEW, "--tile", "150", "--format", "tif")
    assert "(1 before)" in again.out
    other = run_command("segment", image, "-o", out, *FEW, "--tile", "160", "--format", "tif")
    assert other.code == 2
    assert "holds a job with other settings; got tile 160; expected tile 150" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--tile", "half"),
            "tile: not a tile; got 'half'; expected auto, none, or 64 to",
        ),
        (("--tile", "32"), "tile: not a tile; got '32'"),
        (("--tile", "256", "--resize", "512"), "--resize, --tile: one or the other; got both"),
        (("--link-z",), "--link-z: no stack among the images"),
        (("--link-z", "--shard", "1/2"), "--link-z, --shard: one or the other"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "".join(value[:2]),
)
def test_what_is_refused(run_command, image, tmp_path, options, message):
    finished = run_command("segment", image, "-o", tmp_path / "out", *FEW, *options)
    assert finished.code == 2
    assert message in finished.err
    assert not (tmp_path / "out").exists()
