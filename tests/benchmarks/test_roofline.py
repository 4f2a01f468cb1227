"""The projection: figures of cards, and times that are those of the counts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.benchmarking import counts
from cellseg1_rt.benchmarking.products import flop_of
from cellseg1_rt.recipes import read_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "roofline.py"


@pytest.fixture(scope="module")
def roofline() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("roofline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_peaks_are_those_published(roofline: ModuleType):
    published = [card for card in roofline.CARDS if card.published_tflops is not None]
    assert len(published) >= 10
    for card in published:
        assert card.tflops == pytest.approx(card.published_tflops, rel=0.005), card.name


def test_times_are_those_of_the_counts(roofline: ModuleType):
    """With boundless memory only FLOPs are left, with boundless compute only bytes."""
    backbone = Backbone.from_dict(read_recipe("export", "vit_b")["backbone"])
    fast_memory = roofline.Card("x", 10, 1.0, 100, 1e12, None, "")  # 1 TFLOP/s
    found = roofline.project(fast_memory, backbone, 100, 0.3, 64)
    half = 0.5e12
    assert found.encode_ms == pytest.approx(flop_of(counts.encoder(backbone, 512)) / half * 1e3)
    decoded = flop_of(counts.decoder(512, 64)) + flop_of(counts.decoder(512, 36))
    assert found.decode_ms == pytest.approx(decoded / half * 1e3)
    assert found.head_ms == pytest.approx(flop_of(counts.head(512, 30)) / half * 1e3)

    fast_compute = roofline.Card("x", 10, 1e9, 100, 1.0, None, "")  # 1 GB/s
    found = roofline.project(fast_compute, backbone, 100, 0.3, 64)
    head_bytes = 2 * sum(product.elements for product in counts.head(512, 30))
    assert found.head_ms == pytest.approx(head_bytes / 0.7e9 * 1e3)
    assert found.masks_ms == pytest.approx((30 * 128 * 128 * 4 + 4 * 512 * 512) / 0.7e9 * 1e3)


def test_it_says_what_it_is(roofline: ModuleType):
    lines = list(roofline.lines(1024, 1 / 3, 256))
    assert "not a measurement" in lines[0]
    rows = [line for line in lines if line.startswith(("| RTX", "| H100"))]
    assert len(rows) == 3 * len(roofline.CARDS)
    for row in rows:
        *parts, total = (float(cell) for cell in row.split("|")[4:9])
        assert total == pytest.approx(sum(parts), abs=0.16)
    assert sum("whitepaper" in line for line in lines) >= 4
