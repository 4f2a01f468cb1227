"""The peer's two forms, on a few points, and turns that move on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cellseg1_rt
from cellseg1_rt.benchmarking.plain_model import PlainModel
from cellseg1_rt.bundles import SAMPLES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peer.py"
IMAGES = [SAMPLES / "images" / f"{stem}.png" for stem in ("27c30f901149", "8d9b4205ddb1")]


@pytest.fixture(scope="module")
def peer() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("peer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_both_forms_give_labels_and_differ(peer: ModuleType, tiny: cellseg1_rt.Model):
    sam = PlainModel(tiny.bundle, tiny.manifest).sam
    settings = tiny.settings.updated(points_per_side=5, score=0.5, stability=0.5)
    rgb = cellseg1_rt.read_image(IMAGES[1]).pixels
    rgb = np.repeat(rgb[..., None], 3, axis=2) if rgb.ndim == 2 else rgb[..., :3]
    first = peer.peer(sam, settings, first_mask=True)(rgb)
    three = peer.peer(sam, settings, first_mask=False)(rgb)
    assert first.shape == three.shape == rgb.shape[:2]
    assert first.max() > 0
    assert not np.array_equal(first, three)


def test_who_begins_moves_on(peer: ModuleType):
    ran: list[str] = []

    def path(name: str):
        def segment(rgb: np.ndarray) -> np.ndarray:
            ran.append(name)
            return np.zeros(rgb.shape[:2], int)

        return segment

    rows = peer.compare({name: path(name) for name in "xyz"}, IMAGES, 2)
    assert "".join(ran) == "xyz" + "xyz" + "yzx" + "zxy" + "xyz"
    assert [image for image, _, _ in rows["y"]] == [path.stem for path in IMAGES] * 2
    found = peer.summary(rows["x"])
    assert found["ap50"] == 0
    assert len(found["images"]) == 4
