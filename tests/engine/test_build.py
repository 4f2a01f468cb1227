"""Sets of engines: really built, kept, refused, interrupted. Nothing stands in for the builder."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from cellseg1_rt.contract import GRAPHS
from cellseg1_rt.engine.build import BuildOptions, build_engines
from cellseg1_rt.engine.memory import buffer_bytes
from cellseg1_rt.engine.recipe import Card
from cellseg1_rt.engine_files import check_plan, records_in
from cellseg1_rt.errors import BundleError, ConfigError
from cellseg1_rt.files import sha256_of_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_three_engines_a_target(engines, recipe, tiny_manifest):
    folder, built = engines
    assert [group.targets for group in built] == [("sm_89",), ("sm_120",)]
    assert len(names(folder)) == 2 * 3 * 2  # a plan and a record each, and nothing else
    for group in built:
        assert set(group.engines) == set(GRAPHS)
        assert group.kept == set()
        for name, engine in group.engines.items():
            assert engine.key.graph == name
            assert engine.key.targets == group.targets
            assert engine.is_of(tiny_manifest)
            assert engine.plan.stat().st_size == engine.plan_bytes
            check_plan(engine)
        figures = [engine.figures for engine in group.engines.values()]
        memory = group.footprint
        assert memory.weights_bytes == sum(each.weights_bytes for each in figures)
        assert memory.activation_bytes == sum(each.activation_bytes for each in figures)
        assert memory.buffer_bytes == sum(buffer_bytes(tiny_manifest, recipe.profile).values())
    assert sorted(records_in(folder), key=str) == sorted(
        (engine for group in built for engine in group.engines.values()), key=str
    )


def test_weights_on_the_card_are_the_bundles(engines, tiny_manifest):
    """Weights rest in fp16 in the packaged bundle and are fp32 on the card: twice as large."""
    stored = tiny_manifest.files["weights.safetensors"].size_bytes
    for group in engines[1]:
        assert 1.9 * stored < group.footprint.weights_bytes < 2.2 * stored


def test_what_is_there_is_kept(engines, engines_copy, tiny_folder, recipe):
    folder = engines_copy("sm_120")
    before = contents(folder)
    only = replace(recipe, targets=("sm_120",))
    (group,) = build_engines(tiny_folder, only, BuildOptions(folder))
    assert group.kept == set(GRAPHS)
    assert contents(folder) == before
    assert group.footprint == engines[1][1].footprint


def test_a_damaged_engine_is_refused_and_not_replaced(engines_copy, tiny_folder, recipe):
    folder = engines_copy("sm_89")
    plan = next(folder.glob("mask_head.*.plan"))
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        build_engines(tiny_folder, replace(recipe, targets=("sm_89",)), BuildOptions(folder))
    assert str(caught.value).startswith(f"{plan}: damaged engine: the plan has another SHA-256")
    assert plan.read_bytes() == content


def test_a_changed_graph_and_another_version_are_built_anew(
    engines_copy, tiny_folder, recipe, tmp_path
):
    """Only the mask head's graph changes; an engine of another version is passed over as well."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_folder, bundle)
    graph = bundle / "mask_head.onnx"
    model = onnx.load(graph, load_external_data=False)
    model.doc_string = "changed"
    onnx.save(model, graph)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][graph.name] = {
        "sha256": sha256_of_file(graph),
        "size_bytes": graph.stat().st_size,
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    folder = engines_copy("sm_89")
    before = contents(folder)
    only = replace(recipe, targets=("sm_89",))
    (group,) = build_engines(bundle, only, BuildOptions(folder))
    assert group.kept == {"encoder", "prompt_decoder"}
    added = set(names(folder)) - set(before)
    assert {name.rsplit(".", 1)[1] for name in added} == {"plan", "json"}
    assert all(name.startswith("mask_head.sm_89.fp32.tensorrt-rtx.") for name in added)
    assert {name: contents(folder)[name] for name in before} == before


def test_engines_that_do_not_fit_name_the_batch_that_does(
    engines, engines_copy, tiny_folder, recipe
):
    """The budget is a byte short of three prompts; two are built, seen to fit, and named."""
    folder = engines_copy("sm_89")
    before = contents(folder)
    total = engines[1][0].footprint.total_bytes
    tight = replace(recipe, targets=("sm_89",), card=Card((total - 1) / 1e9, 1.0))
    with pytest.raises(ConfigError) as caught:
        build_engines(tiny_folder, tight, BuildOptions(folder))
    line = str(caught.value)
    assert line.startswith("3 prompts a call: the engines for sm_89 do not fit the card; got ")
    assert f"got {total / 1e6:.0f} MB of weights, activations and buffers" in line
    assert "Fix: --prompt-batch 2, the largest that fits: " in line
    assert contents(folder) == before


def test_engines_that_never_fit(engines_copy, tiny_folder, recipe):
    """One prompt is the whole profile, so nothing is searched and nothing built but that."""
    folder = engines_copy("sm_89")
    hopeless = replace(recipe, targets=("sm_89",), card=Card(0.001, 1.0)).updated(prompt_batch=1)
    with pytest.raises(ConfigError, match="not even a few prompts fit"):
        build_engines(tiny_folder, hopeless, BuildOptions(folder))


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 200 kB: a writer hears of it as it hears of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("little_room")
def test_a_write_that_fails_leaves_nothing(tmp_path, tiny_folder, recipe):
    with pytest.raises(ConfigError) as caught:
        build_engines(tiny_folder, recipe, BuildOptions(tmp_path, jobs=6))
    line = str(caught.value)
    assert "the plan cannot be written; got File too large; expected room for " in line
    assert line.endswith("Fix: free some room, or choose another folder with -o")
    assert names(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path, tiny_folder):
    """The signal comes while builders are at work; none of them may be left running either."""
    script = (
        # A shell starts its background jobs deaf to it.
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cellseg1_rt.cli.main import main\n"
        "from cellseg1_rt.cli import build_engine\n"
        "from contextlib import contextmanager\n"
        "@contextmanager\n"
        "def progress():\n"
        "    yield lambda key, share: print(share, flush=True)\n"
        "build_engine._progress = progress\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "build-engine", str(tiny_folder), "--recipe", "rtx40"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a builder has said how far it is
        (staging,) = tmp_path.glob(".build-*")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert names(tmp_path) == []
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(staging) not in lines.stdout
