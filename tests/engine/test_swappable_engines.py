"""Two LoRAs of one SAM: one encoder's engine, really built once, and found by the second bundle.

That their encoders are the same bytes is tested where they are exported.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt

from cellseg1_rt.backends.choose import wants_card
from cellseg1_rt.backends.engines import find_engines
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.engine.build import BuildOptions, build_engines
from cellseg1_rt.engine.memory import buffer_bytes
from cellseg1_rt.engine_files import engine_folders, shared_folder

FIRST, SECOND = 11, 13
ASKED = {"flavor": "tensorrt-rtx", "version": trt.__version__, "target": "sm_89"}


@pytest.fixture
def bundles(swappable, tmp_path, monkeypatch) -> list[Path]:
    """Two bundles to build in, and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return [
        Path(shutil.copytree(swappable(seed), tmp_path / str(seed))) for seed in (FIRST, SECOND)
    ]


def test_a_second_lora_builds_no_encoder(bundles, recipe, run_command, tmp_path):
    only = replace(recipe, targets=("sm_89",))
    (first,) = build_engines(bundles[0], only)
    assert first.kept == set()
    manifests = [read_manifest(bundle) for bundle in bundles]
    shared = shared_folder(manifests[0])
    encoder = first.engines["encoder"]
    assert encoder.folder == shared == shared_folder(manifests[1])
    own = {engine.folder for name, engine in first.engines.items() if name != "encoder"}
    assert own == {bundles[0] / "engines"}
    # An encoder alone is nothing that a card could segment with.
    assert not wants_card("auto", bundles[1], manifests[1])

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shared.iterdir()}
    (second,) = build_engines(bundles[1], only)
    assert second.kept == {"encoder"}
    assert second.engines["encoder"] == encoder
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shared.iterdir()
    } == before

    for bundle, manifest, built in zip(bundles, manifests, (first, second), strict=True):
        assert wants_card("auto", bundle, manifest)
        assert find_engines(bundle, manifest, **ASKED) == built.engines
        own = bundle / "engines"
        assert find_engines(bundle, manifest, **ASKED, folder=own) == built.engines
        told = json.loads(run_command("info", bundle, "--json").out)
        assert set(told["engines"]) == {str(engine.plan) for engine in built.engines.values()}
        assert all(said.endswith(", checked") for said in told["engines"].values())
        assert told["lora"] == "rank 3, pairs are inputs of the encoder"
    # Where a folder is named, all three are looked for there, and there alone.
    here = tmp_path / "here"
    here.mkdir()
    for engine in second.engines.values():
        shutil.copy(engine.plan, here)
        shutil.copy(engine.path, here)
    (named,) = build_engines(bundles[1], only, BuildOptions(here))
    assert named.kept == set(GRAPHS)
    assert {engine.folder for engine in named.engines.values()} == {here}
    # The pairs are the encoder's inputs, and have their buffers.
    sizes = buffer_bytes(manifests[0], only.profile)
    assert (sizes["lora_a"], sizes["lora_b"]) == (4 * 2 * 3 * 48, 4 * 2 * 48 * 3)


def test_an_ordinary_bundle_shares_nothing(tiny_folder, tiny_manifest):
    assert shared_folder(tiny_manifest) is None
    assert len(engine_folders(tiny_folder, tiny_manifest)) == 2
