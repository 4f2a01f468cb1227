"""Exports: whole or absent, verified, and honest about what they refuse."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from drawing import draw_weights
from safetensors.torch import load_file, save_file

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.check import read_check
from cellseg1_rt.contract import CHECK_NAME, GRAPHS, WEIGHTS_NAME, read_manifest
from cellseg1_rt.errors import ConfigError, VerificationError, WeightsError
from cellseg1_rt.export import bundle as export_module
from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
from cellseg1_rt.export.verify import Difference, compare_graphs, require_within
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import load_sam
from cellseg1_rt.recipes import read_recipe, recipe_names
from cellseg1_rt.settings import InferenceSettings

SMALL = ExportRecipe(
    backbone=Backbone("small", 48, 3, 3, (1,), 5),
    image_size=112,
    precision="fp32",
    weight_storage="fp32",
    settings=InferenceSettings(score=0.7),
)
"""A grid of 7 in windows of 5: padded windows, which the packaged backbone does not have."""


def write_weights(path: Path, recipe: ExportRecipe, seed: int = 3) -> Path:
    sam = draw_weights(build_sam(recipe.backbone, recipe.image_size), seed)
    save_file({name: value.contiguous() for name, value in sam.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors", SMALL)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    return export_bundle(weights, tmp_path_factory.mktemp("export") / "bundle", SMALL)


def test_graphs_equal_pytorch(exported):
    assert {(d.graph, d.tensor) for d in exported.differences} == {
        (spec.name, tensor.name) for spec in GRAPHS.values() for tensor in spec.outputs
    }
    assert max(d.relative for d in exported.differences) <= 1e-4


def test_manifest_says_what_was_exported(exported):
    manifest = read_manifest(exported.bundle)
    assert manifest.backbone == SMALL.backbone
    assert manifest.image_size == 112
    assert manifest.settings.score == 0.7
    graphs = {spec.file_name for spec in GRAPHS.values()}
    assert set(manifest.files) == graphs | {WEIGHTS_NAME, CHECK_NAME}
    assert len(manifest.provenance["weights_sha256"]) == 64


def test_the_check_is_what_sams_modules_give_in_float32(exported, weights):
    """Image, points and index in, one graph after another: written out here."""
    check = read_check(exported.bundle, read_manifest(exported.bundle))
    modules = export_module.plain_modules(load_sam(weights, SMALL.backbone, SMALL.image_size))
    put = {name: torch.from_numpy(value) for name, value in vars(check.inputs).items()}
    with torch.no_grad():
        embedding = modules["encoder"](put["image"], put["size"])
        score, hyper, keys = modules["prompt_decoder"](embedding, put["points"])
        logits = modules["mask_head"](keys, hyper, put["index"])
    for found, wanted in (
        (check.outputs.embedding, embedding.flatten()[::31]),
        (check.outputs.score, score),
        (check.outputs.logits, logits.flatten()[::31]),
    ):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5 * float(wanted.std()))


def test_weights_file_is_the_model_in_sams_own_layout(exported, weights):
    stored, source = load_file(exported.bundle / WEIGHTS_NAME), load_file(weights)
    assert set(stored) == set(source)
    for name, value in source.items():
        assert torch.equal(stored[name], value), name


def test_weights_are_stored_once(exported):
    """No graph holds a weight matrix of its own; what it refers to lies in the weights' file."""
    (header,) = struct.unpack("<Q", (exported.bundle / WEIGHTS_NAME).read_bytes()[:8])
    for spec in GRAPHS.values():
        graph = onnx.load(exported.bundle / spec.file_name, load_external_data=False).graph
        external = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert external
        for tensor in external:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == WEIGHTS_NAME
            assert int(entries["offset"]) >= 8 + header
        inside = sum(len(t.raw_data) for t in graph.initializer)
        assert inside < 200_000


def test_fp16_storage_rounds_weights_once_and_computes_in_fp32(weights, tmp_path):
    recipe = replace(SMALL, weight_storage="fp16")
    done = export_bundle(weights, tmp_path / "bundle", recipe)
    assert max(d.relative for d in done.differences) <= 1e-4
    stored, source = load_file(done.bundle / WEIGHTS_NAME), load_file(weights)
    for name, value in source.items():
        assert torch.equal(stored[name], value.half()), name


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_do_not_mix(exported, batch):
    session = ort.InferenceSession(str(exported.bundle / "encoder.onnx"))
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (batch, 112, 112, 3), np.uint8)
    sizes = np.array([[112, 112], [61, 112], [112, 37]], np.int32)[:batch]
    together = session.run(None, {"image": images, "size": sizes})[0]
    for index in range(batch):
        one = slice(index, index + 1)
        alone = session.run(None, {"image": images[one], "size": sizes[one]})[0]
        np.testing.assert_allclose(together[one], alone, atol=1e-4 * alone.std())


def test_what_lies_outside_the_valid_size_is_ignored(exported):
    session = ort.InferenceSession(str(exported.bundle / "encoder.onnx"))
    images = np.full((2, 112, 112, 3), 90, np.uint8)
    images[1, 61:] = 255
    images[1, :, 47:] = 3
    sizes = np.array([[61, 47], [61, 47]], np.int32)
    first, second = session.run(None, {"image": images, "size": sizes})[0]
    np.testing.assert_array_equal(first, second)


def test_an_existing_bundle_is_kept_unless_told(exported, weights):
    before = (exported.bundle / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        export_bundle(weights, exported.bundle, SMALL)
    assert (exported.bundle / "manifest.json").read_bytes() == before


def test_a_failed_verification_leaves_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(export_module.TOLERANCES, "fp32", dict.fromkeys(GRAPHS, 1e-12))
    with pytest.raises(VerificationError, match="graph encoder, tensor embedding"):
        export_bundle(weights, tmp_path / "bundle", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_fails_verification(exported, weights):
    """Modules of other weights stand for a graph that computes something else."""
    other = draw_weights(build_sam(SMALL.backbone, SMALL.image_size), seed=4)
    modules = export_module.plain_modules(other)
    differences = compare_graphs(exported.bundle, modules, SMALL.image_size)
    assert min(difference.relative for difference in differences) > 0.1


@pytest.mark.parametrize("figure", [2e-4, float("nan"), float("inf")])
def test_outside_tolerance_is_named(figure):
    difference = Difference("mask_head", "logits", figure, typical=1e-6)
    with pytest.raises(VerificationError, match=r"graph mask_head, tensor logits.*at most 1e-04"):
        require_within([difference], {"mask_head": 1e-4})


def test_weights_of_another_backbone(weights, tmp_path):
    recipe = replace(SMALL, backbone=replace(SMALL.backbone, depth=4))
    with pytest.raises(WeightsError):
        export_bundle(weights, tmp_path / "bundle", recipe)
    assert list(tmp_path.iterdir()) == []


def test_recipes_that_ship_are_whole():
    assert recipe_names("export") == ["tiny", "vit_b", "vit_h", "vit_l"]
    for name in recipe_names("export"):
        recipe = ExportRecipe.from_dict(read_recipe("export", name))
        assert recipe.backbone.name == name
        assert recipe.image_size == 512


BAD_RECIPES = {
    "unknown field": ({"colour": 1}, "colour"),
    "precision": ({"precision": "fp8"}, "'fp8'; expected one of fp32"),
    "storage": ({"weight_storage": "int4"}, "'int4'"),
    "backbone": ({"backbone": {"name": "x"}}, "backbone: fields do not fit"),
    "setting": ({"settings": {"score": 2}}, "setting 'score': out of range"),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_bad_recipes(name):
    change, says = BAD_RECIPES[name]
    with pytest.raises(ConfigError) as caught:
        ExportRecipe.from_dict({**read_recipe("export", "tiny"), **change})
    assert says in str(caught.value)


def test_export_command(run_command, weights, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'image_size = 112\nprecision = "fp32"\nweight_storage = "fp16"\n[backbone]\n'
        'name = "small"\n'
        "embed_dim = 48\ndepth = 3\nnum_heads = 3\nglobal_attn_indexes = [1]\nwindow_size = 5\n"
    )
    done = run_command("export", weights, "-o", tmp_path / "bundle", "--recipe", recipe)
    assert done.code == 0, done.err
    assert "verified" in done.out
    assert read_manifest(tmp_path / "bundle").backbone.name == "small"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_full_size_backbones(name, tmp_path):
    """Seeded weights in Meta's form through the same code; ViT-H exceeds ONNX's 2 GB."""
    recipe = ExportRecipe.from_dict(read_recipe("export", name))
    sam = draw_weights(build_sam(recipe.backbone, 1024), seed=7)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    del sam
    done = export_bundle(tmp_path / "sam.pth", tmp_path / "bundle", recipe)
    assert max(d.relative for d in done.differences) <= 1e-4
