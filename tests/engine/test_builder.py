"""Single builds in this process: real ones, and what the builder's refusals become."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt

from cellseg1_rt.contract import Manifest
from cellseg1_rt.engine.build import keys_of
from cellseg1_rt.engine.builder import build_plan
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine_files import EngineKey, Span
from cellseg1_rt.errors import BundleError, ConfigError


@pytest.fixture
def head(tiny_manifest: Manifest, recipe: EngineRecipe) -> EngineKey:
    """The mask head for sm_89: the quickest to build."""
    return keys_of(tiny_manifest, recipe, ("sm_89",), trt.__version__)["mask_head"]


def test_a_plan_and_its_figures(tiny_folder, tiny_manifest, head):
    shares: list[float] = []
    plan, figures = build_plan(trt, tiny_folder, tiny_manifest, head, shares.append)
    content = bytes(plan)
    # The header: the flavour's mark, and the version as numbers.
    assert b"trt" in content[:8]
    assert bytes(int(part) for part in trt.__version__.split(".")) in content[:64]
    assert figures.layers > 20
    assert figures.build_seconds > 0
    # The head's weights are 256·64·4 + 64·32·4 in fp32, and some biases and norms.
    assert 4 * (256 * 64 * 4 + 64 * 32 * 4) < figures.weights_bytes < 4 * 10**5
    assert 0 < len(content) < 2 * 10**6
    assert shares[-1] > 0.8
    assert all(0 <= share <= 1 for share in shares)


def test_activations_grow_with_the_masks_and_not_with_the_prompts(tiny_folder, tiny_manifest, head):
    def activations(prompts: int, masks: int) -> int:
        profile = {"N": Span(1, prompts, prompts), "M": Span(1, masks, masks)}
        key = replace(head, profile=profile)
        return build_plan(trt, tiny_folder, tiny_manifest, key)[1].activation_bytes

    assert activations(31, 5) == pytest.approx(activations(7, 5), rel=0.01)
    assert activations(31, 17) > 2 * activations(31, 5)


def test_two_targets_in_one_plan_are_hardly_larger(tiny_folder, tiny_manifest, head):
    sizes = [
        build_plan(trt, tiny_folder, tiny_manifest, replace(head, targets=targets))[0].nbytes
        for targets in (("sm_89",), ("sm_89", "sm_120"))
    ]
    assert 1.0 <= sizes[1] / sizes[0] < 1.01


@pytest.mark.parametrize(
    "targets, options, message, fix",
    [
        pytest.param(
            ("sm_75",),
            {},
            "FP32 GEMM is not supported",
            "Fix: export the bundle with --precision fp16, or use --runtime onnxruntime",
            id="fp32-on-turing",
        ),
        pytest.param(
            ("sm_89",),
            {"workspace_mbytes": 1},
            "workspace limit",
            "Fix: raise workspace_mbytes in the recipe, or set it to 0",
            id="workspace",
        ),
    ],
)
def test_what_the_builder_refuses(
    tiny_folder, tiny_manifest, head, targets, options, message: str, fix: str
):
    key = replace(head, targets=targets, options={**head.options, **options})
    with pytest.raises(ConfigError) as caught:
        build_plan(trt, tiny_folder, tiny_manifest, key)
    line = str(caught.value)
    assert line.startswith(f"mask_head in fp32 for {targets[0]}: tensorrt-rtx {trt.__version__}")
    assert message in line
    assert line.endswith(fix)
    assert "\n" not in line


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    for path in tiny_folder.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def test_a_graph_that_cannot_be_read(bundle, tiny_manifest, head):
    graph = bundle / "mask_head.onnx"
    graph.write_bytes(graph.read_bytes()[:4000])
    with pytest.raises(BundleError) as caught:
        build_plan(trt, bundle, tiny_manifest, head)
    line = str(caught.value)
    assert line.startswith(f"{graph}: tensorrt-rtx cannot read the graph; got ")
    assert "parse the ONNX model" in line


def test_a_graph_of_another_kind(bundle, tiny_manifest, head):
    shutil.copy(bundle / "encoder.onnx", bundle / "mask_head.onnx")
    with pytest.raises(BundleError) as caught:
        build_plan(trt, bundle, tiny_manifest, head)
    assert "got image UINT8, size INT32; expected keys FLOAT, hyper FLOAT, index INT64" in str(
        caught.value
    )


@pytest.mark.parametrize("precision, kind", [("fp16", "HALF"), ("bf16", "BF16")])
def test_a_graph_of_another_precision(tiny_folder, tiny_manifest, head, precision, kind):
    """A mislabelled bundle must not be built: its buffers would be of half the size."""
    with pytest.raises(BundleError) as caught:
        build_plan(trt, tiny_folder, tiny_manifest, replace(head, precision=precision))
    line = str(caught.value)
    assert f"graph has other tensors than a {precision} bundle's" in line
    assert f"got keys FLOAT, hyper FLOAT, index INT64; expected keys {kind}, hyper {kind}" in line
