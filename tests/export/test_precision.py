"""Typed exports: what computes in fewer bits, what stays float32, how far both are from fp32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from drawing import draw_weights
from export.test_bundle import SMALL, write_weights
from onnx import TensorProto

from cellseg1_rt.contract import GRAPHS, WEIGHTS_NAME
from cellseg1_rt.errors import VerificationError, WeightsError
from cellseg1_rt.export import bundle as export_module
from cellseg1_rt.export.bundle import export_bundle
from cellseg1_rt.export.verify import compare_graphs
from cellseg1_rt.export.widen import widened_graph
from cellseg1_rt.model.precision import in_precision
from cellseg1_rt.model.sam import build_sam

LOWER = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
WIDE_OPERATIONS = {
    "Cos", "Exp", "LayerNormalization", "Pow", "ReduceMean", "ReduceSum", "Sin", "Softmax", "Sqrt",
}  # fmt: skip
PRODUCTS = {"Conv", "Einsum", "Gemm", "MatMul"}
WIDE_PRODUCTS = {"encoder": [], "prompt_decoder": ["Conv"] * 3, "mask_head": []}
"""The layers of the score head. Turing has no engine for float32 products of another kind."""
TYPICAL = {"fp16": 4e-3, "bf16": 3e-2}


@pytest.fixture(scope="module", params=LOWER)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    weights = write_weights(folder / "small.safetensors", SMALL)
    return export_bundle(weights, folder / "bundle", replace(SMALL, precision=request.param))


def typed_nodes(path: Path) -> Iterator[tuple[str, set[int], set[int]]]:
    """Operation, types of its float inputs and of its float outputs."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    floats = {TensorProto.FLOAT, *LOWER.values()}
    for node in graph.node:
        # A node without a type would pass every check that follows.
        assert all(types[name] for name in (*node.input, *node.output) if name), node.name
        sides = ({types[name] for name in side if name} for side in (node.input, node.output))
        inputs, outputs = (side & floats for side in sides)
        yield node.op_type, inputs, outputs


def test_differences_from_fp32(exported):
    precision = exported.manifest.precision
    for differences in (exported.differences, exported.rounding):
        assert [d.graph for d in differences] == [
            s.name for s in GRAPHS.values() for _ in s.outputs
        ]
        assert max(d.typical for d in differences) < TYPICAL[precision]
    # Rounding is seen, so it took place.
    assert min(d.typical for d in exported.rounding) > TYPICAL[precision] / 1000


@pytest.mark.parametrize("name", GRAPHS)
def test_what_stays_float32(exported, name):
    low = LOWER[exported.manifest.precision]
    wide_products = []
    for operation, inputs, outputs in typed_nodes(exported.bundle / GRAPHS[name].file_name):
        if operation in WIDE_OPERATIONS:
            assert low not in inputs | outputs, operation
        elif operation in PRODUCTS and low not in inputs:
            wide_products.append(operation)
    assert wide_products == WIDE_PRODUCTS[name]


def test_inputs_and_outputs_follow_the_contract(exported):
    low = LOWER[exported.manifest.precision]
    types = {
        "uint8": TensorProto.UINT8,
        "int32": TensorProto.INT32,
        "int64": TensorProto.INT64,
        "float32": TensorProto.FLOAT,
        "precision": low,
    }
    for spec in GRAPHS.values():
        graph = onnx.load(exported.bundle / spec.file_name, load_external_data=False).graph
        for tensors, values in ((spec.inputs, graph.input), (spec.outputs, graph.output)):
            found = {value.name: value.type.tensor_type.elem_type for value in values}
            assert found == {tensor.name: types[tensor.dtype] for tensor in tensors}


def test_weights_are_stored_once(exported):
    for spec in GRAPHS.values():
        graph = onnx.load(exported.bundle / spec.file_name, load_external_data=False).graph
        assert sum(len(tensor.raw_data) for tensor in graph.initializer) < 200_000
        external = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
        places = [{e.key: e.value for e in t.external_data}["location"] for t in external]
        assert set(places) == {WEIGHTS_NAME}


def test_a_widened_graph_is_float32_and_leaves_nothing(exported):
    path = exported.bundle / "mask_head.onnx"
    before = sorted(exported.bundle.iterdir())
    with widened_graph(path) as wide:
        for _, inputs, outputs in typed_nodes(wide):
            assert TensorProto.BFLOAT16 not in inputs | outputs
        session = ort.InferenceSession(str(wide))
        assert [put.type for put in session.get_outputs()] == ["tensor(float)"]
    assert sorted(exported.bundle.iterdir()) == before


def test_a_wrong_graph_fails_verification(exported):
    other = draw_weights(build_sam(SMALL.backbone, SMALL.image_size), seed=4)
    plain, precision = export_module.plain_modules(other), exported.manifest.precision
    differences = compare_graphs(exported.bundle, plain, SMALL.image_size, precision)
    assert min(difference.relative for difference in differences) > 0.8


def scaled_weights(path: Path, largest: float) -> Path:
    """Weights of one layer up to ``largest``, of inputs up to hundreds, undone in the next."""
    sam = draw_weights(build_sam(SMALL.backbone, SMALL.image_size), seed=3)
    block = sam.image_encoder.blocks[1]
    with torch.no_grad():
        factor = largest / block.mlp.lin1.weight.abs().max()
        block.norm2.weight *= 100
        block.mlp.lin1.weight *= factor
        block.mlp.lin2.weight /= 100 * factor
    torch.save(sam.state_dict(), path)
    return path


@pytest.mark.slow
def test_values_that_float16_cannot_hold_fail_verification_by_name(tmp_path):
    weights = scaled_weights(tmp_path / "sam.pth", 6e4)
    with pytest.raises(VerificationError, match="graph encoder, tensor embedding"):
        export_bundle(weights, tmp_path / "fp16", replace(SMALL, precision="fp16"))
    assert not (tmp_path / "fp16").exists()


def test_weights_beyond_float16_are_named(tmp_path):
    weights = scaled_weights(tmp_path / "sam.pth", 3e5)
    with pytest.raises(WeightsError, match=r"lin1.weight: .*got 3e\+05.*65504 for fp16"):
        export_bundle(weights, tmp_path / "fp16", replace(SMALL, precision="fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["sam.pth"]


def test_in_precision_keeps_norms_and_positions_exact():
    sam = draw_weights(build_sam(SMALL.backbone, SMALL.image_size), seed=3)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    in_precision(sam, "bf16")
    kept = {name for name, value in sam.state_dict().items() if value.dtype == torch.float32}
    for name in kept:
        assert torch.equal(sam.state_dict()[name], before[name]), name
    assert "image_encoder.pos_embed" in kept
    assert "mask_decoder.iou_prediction_head.layers.0.weight" in kept
    assert "mask_decoder.transformer.layers.0.norm1.weight" in kept
    assert "image_encoder.blocks.0.mlp.lin1.weight" not in kept
