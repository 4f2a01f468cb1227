"""Engines of fp16 and bf16 bundles, really exported and really built, and what memory they take."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt
import torch
from drawing import draw_weights

from cellseg1_rt.contract import GRAPHS, WEIGHTS_NAME, read_manifest
from cellseg1_rt.engine.build import BuildOptions, BuiltEngines, build_engines, keys_of
from cellseg1_rt.engine.builder import build_plan
from cellseg1_rt.engine.memory import buffer_bytes
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import write_safetensors
from cellseg1_rt.recipes import read_recipe

# fp16 as a plan for each card, bf16 as one plan for all: either way is built.
CASES = {
    "fp16": (("sm_75", "sm_89", "sm_120"), False),
    "bf16": (("sm_89", "sm_120"), True),
}


def export_tiny(tiny_folder: Path, folder: Path, precision: str, image_size: int) -> Path:
    values = {**read_recipe("export", "tiny"), "precision": precision, "image_size": image_size}
    export = ExportRecipe.from_dict(values)
    return export_bundle(tiny_folder / WEIGHTS_NAME, folder / "bundle", export).bundle


@pytest.fixture(scope="module", params=CASES)
def typed(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    recipe: EngineRecipe,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[BuiltEngines]]:
    """The packaged weights in another precision at 128 px, and the engines of that bundle.

    An export verifies itself in PyTorch, whose fp16 is slow on a CPU: hence not 512 px.
    """
    folder = tmp_path_factory.mktemp(request.param)
    bundle = export_tiny(tiny_folder, folder, request.param, 128)
    cards, one_plan = CASES[request.param]
    options = BuildOptions(one_plan=one_plan)
    return bundle, build_engines(bundle, replace(recipe, targets=cards), options)


def test_every_card_has_engines(typed):
    bundle, built = typed
    precision = read_manifest(bundle).precision
    cards, one_plan = CASES[precision]
    assert [group.targets for group in built] == ([cards] if one_plan else [(c,) for c in cards])
    for group in built:
        assert set(group.engines) == set(GRAPHS)
        assert {engine.key.precision for engine in group.engines.values()} == {precision}


def test_weights_take_half_of_fp32s(typed, engines):
    """Products have them in half the width; what stays float32 is the smaller part."""
    wide = engines[1][0].footprint.weights_bytes
    for group in (each for each in typed[1] if "sm_89" in each.targets):  # as those in fp32
        assert 0.45 * wide < group.footprint.weights_bytes < 0.62 * wide


@pytest.mark.slow
@pytest.mark.parametrize("precision", CASES)
def test_the_whole_grid_in_one_call(tiny_folder, tmp_path, recipe, precision: str):
    """1,024 prompts: activations and outputs within 2 GB (a plain fp32 decoder: 8.6 GB)."""
    bundle = export_tiny(tiny_folder, tmp_path, precision, 512)
    manifest = read_manifest(bundle)
    whole = recipe.updated(prompt_batch=1024)
    key = keys_of(manifest, whole, ("sm_89",), trt.__version__)["prompt_decoder"]
    figures = build_plan(trt, bundle, manifest, key)[1]
    sizes = buffer_bytes(manifest, whole.profile)
    outputs = sum(sizes[tensor.name] for tensor in GRAPHS["prompt_decoder"].outputs)
    assert outputs > 0.5e9
    assert figures.activation_bytes + outputs <= 2.0e9


BUILD = """
import json, resource, sys
from pathlib import Path
from cellseg1_rt.engine.build import BuildOptions, build_engines
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.recipes import read_recipe

bundle, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
recipe = EngineRecipe.from_dict(read_recipe("engine", "rtx40")).updated(**changes)
(group,) = build_engines(bundle, recipe, BuildOptions(jobs=1))
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
peaks = int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({
    "on_card": group.footprint.total_bytes,
    "budget": recipe.card.budget_bytes,
    "seconds": sum(engine.figures.build_seconds for engine in group.engines.values()),
    "memory": max(peaks) * 1024,
}))
"""


def built_alone(bundle: Path, **changes: float) -> dict[str, float]:
    """Figures of a build in a process of its own.

    What ``getrusage`` says of a process begins with its parent's peak; ``VmHWM`` does not.
    """
    command = [sys.executable, "-c", BUILD, str(bundle), json.dumps(changes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_vit_h_within_eight_gigabytes(tmp_path):
    """The published backbone in fp16 at the recipe's own sizes: half an 8 GB card, in a minute."""
    values = {**read_recipe("export", "vit_h"), "precision": "fp16"}
    export = ExportRecipe.from_dict(values)
    sam = draw_weights(build_sam(export.backbone, export.image_size), 7)
    weights = tmp_path / "vit_h.safetensors"
    write_safetensors(weights, sam.state_dict(), metadata={}, dtype=torch.float32)
    del sam
    bundle = tmp_path / "bundle"
    export_bundle(weights, bundle, export)
    built = built_alone(bundle)
    assert built["on_card"] <= 4e9
    assert built["seconds"] <= 60
    assert built["memory"] <= 8e9
    larger = built_alone(bundle, prompt_batch=1024, card_gbytes=12.0)
    assert larger["on_card"] <= larger["budget"]
