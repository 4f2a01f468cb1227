"""``build-engine`` and what ``info`` says of its engines: the whole way, with real engines."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cellseg1_rt.backends import tensorrt
from cellseg1_rt.backends.tensorrt import Loaded
from cellseg1_rt.backends.tensorrt_library import Card
from cellseg1_rt.check import Deviation
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.engine import build, targets
from cellseg1_rt.engine.build import BuiltEngines
from cellseg1_rt.engine.memory import Footprint
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine_files import EngineRecord, Figures
from cellseg1_rt.recipes import read_recipe

RECIPE = """
flavor = "tensorrt-rtx"
targets = ["sm_89"]
precisions = ["fp32"]
[profile]
images = { min = 1, opt = 1, max = 1 }
prompts = { min = 1, opt = 3, max = 5 }
masks = { min = 1, opt = 1, max = 2 }
[card]
memory_gbytes = 8
budget_share = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_from_a_bundle_to_engines_and_what_info_says(run_command, tiny_folder, tmp_path, recipe):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_folder, bundle)
    command = ("build-engine", bundle, "--recipe", recipe)
    done = run_command(*command)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.fullmatch(
        r"sm_89: tensorrt-rtx [\d.]+, fp32, up to 1 images, 5 prompts and 2 masks a call", lines[0]
    )
    assert [line.split()[0] for line in lines[2:5]] == list(GRAPHS)
    assert re.fullmatch(
        r"at run time \d+ MB, of 4000 MB allowed \(0\.5 of a card's 8 GB\)", lines[-2]
    )
    assert lines[-1] == f"engines in {bundle / 'engines'}"

    again = run_command(*command, "--json")
    (report,) = json.loads(again.out)
    assert report["targets"] == ["sm_89"]
    assert set(report["engines"]) == set(GRAPHS)
    assert all(engine["kept"] for engine in report["engines"].values())
    memory = report["memory"]
    parts = ("weights_bytes", "activation_bytes", "buffer_bytes")
    assert memory["total_bytes"] == sum(memory[part] for part in parts)
    assert memory["budget_bytes"] == 4 * 10**9
    # The table and the JSON say the same.
    assert f"at run time {memory['total_bytes'] / 1e6:.0f} MB" in done.out

    plans = {name: Path(engine["plan"]) for name, engine in report["engines"].items()}
    plans["encoder"].write_bytes(b"damaged")
    listed = json.loads(run_command("info", bundle, "--json").out)["engines"]
    assert set(listed) == {str(plan) for plan in plans.values()}
    assert "damaged engine: the plan has another size" in listed[str(plans["encoder"])]
    assert re.fullmatch(
        r"mask_head for sm_89, tensorrt-rtx [\d.]+, fp32, N 1 to 5, M 1 to 2, \d+ bytes, checked",
        listed[str(plans["mask_head"])],
    )
    refused = run_command(*command)
    assert refused.code == 2
    assert refused.err.startswith(f"error: {plans['encoder']}: damaged engine: ")


def test_info_without_engines(run_command, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert json.loads(run_command("info", tiny_folder, "--json").out)["engines"] == {}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--recipe", "rtx60"), "rtx60: no such engine recipe; expected one of datacenter, rtx20"),
        (("--recipe", "rtx20"), "precisions: this recipe is not for bundles of that precision"),
        (
            ("--recipe", "rtx40", "--target", "sm_90"),
            "no engines for these cards; got sm_90",
        ),
        (("--recipe", "rtx40", "--target", "89"), "targets: cannot be followed; got '89'"),
        (("--recipe", "rtx40", "--flavor", "trt"), "expected one of tensorrt-rtx, tensorrt"),
        (("--recipe", "rtx40", "--prompt-batch", "0"), "--prompt-batch: out of range; got 0"),
        (("--recipe", "rtx40", "--card-memory", "0"), "memory_gbytes: cannot be followed; got 0"),
    ],
)
def test_what_is_refused(run_command, tiny_folder, tmp_path, arguments, message: str):
    done = run_command("build-engine", tiny_folder, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_that_nothing_was_left(run_command, tiny_folder, tmp_path, recipe, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_engines", interrupted)
    done = run_command("build-engine", tiny_folder, "--recipe", recipe, "-o", tmp_path / "out")
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted: nothing was left behind, and engines stay as they were\n"


def test_verify_says_how_near_the_card_is(run_command, tiny_folder, tmp_path, recipe, monkeypatch):
    """What stands in is the card: what its engines gave in the bundle's check."""
    loaded = Loaded(
        None,
        Card("NVIDIA GeForce RTX 4070", "sm_89", "580.1"),
        [Deviation("mask_head", "logits", 0.0123, 0.001, 0.2)],
    )
    asked = []

    def load(*arguments: object, **options: object) -> Loaded:
        asked.append((arguments[2], options))
        return loaded

    monkeypatch.setattr(targets, "load_library", lambda *arguments: None)
    monkeypatch.setattr(targets, "present_target", lambda flavor: "sm_89")
    monkeypatch.setattr(tensorrt, "load_tensorrt", load)
    monkeypatch.setattr(
        build, "build_engines", lambda *arguments: [built_of(tiny_folder, tmp_path / "out")]
    )
    done = run_command("build-engine", tiny_folder, "--recipe", recipe, "--verify", "--json")
    assert done.code == 0
    assert done.err == (
        "logits: within 1.2e-02 of float32's spread on NVIDIA GeForce RTX 4070, 2.0e-01 allowed\n"
    )
    assert asked == [("tensorrt-rtx", {"folder": tmp_path / "out", "check_again": True})]


def built_of(bundle: Path, folder: Path) -> BuiltEngines:
    made = EngineRecipe.from_dict(read_recipe("engine", "rtx40"))
    keys = build.keys_of(read_manifest(bundle), made, ("sm_89",), "1.7.1")
    engines = {
        name: EngineRecord(key, "0" * 64, 1, Figures(1, 1.0, 1, 1), folder)
        for name, key in keys.items()
    }
    return BuiltEngines(("sm_89",), engines, frozenset(), Footprint(1, 1, 1))


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_verify_without_a_driver_is_refused_before_anything_is_built(
    run_command, tiny_folder, tmp_path, recipe
):
    done = run_command(
        "build-engine", tiny_folder, "--recipe", recipe, "-o", tmp_path / "out", "--verify"
    )
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: tensorrt_rtx: the runtime 'tensorrt-rtx' cannot load this")
    assert "expected the file libcuda.so.1 on the library path. Fix: install the NVIDIA" in done.err
    assert done.err.endswith("until then --runtime onnxruntime works\n")
    assert not (tmp_path / "out").exists()


def test_a_terminal_gets_a_bar_for_each_engine(
    run_command, tiny_folder, tmp_path, recipe, monkeypatch
):
    """Turing has no fp32 products, so the builds end soon; the bars are gone before the error."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run_command(
        "build-engine", tiny_folder, "--recipe", recipe, "-o", tmp_path / "out", "--target", "sm_75"
    )
    assert done.code == 2
    assert "FP32 GEMM is not supported" in done.err
    assert "sm_75" in done.err
    assert list((tmp_path / "out").iterdir()) == []
