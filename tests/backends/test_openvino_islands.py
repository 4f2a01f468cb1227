"""Cutting a model behind its sines: the same function, exact angles in bf16."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from cellseg1_rt.backends.openvino import cpu_capabilities
from cellseg1_rt.backends.openvino_islands import split_off_sines

WIDTH = 23


def encoding_model(periodic: bool = True) -> ov.Model:
    """Points [N, 2] and an image part [1, 23] to [N, 23]: encoded, added up, multiplied."""
    rng = np.random.default_rng(5)
    points = ops.parameter([-1, 2], np.float32)
    points.output(0).get_tensor().set_names({"points"})
    image = ops.parameter([1, WIDTH], np.float32)
    image.output(0).get_tensor().set_names({"image"})
    gauss = ops.constant(rng.normal(0, 30, (2, WIDTH)).astype(np.float32))
    angles = ops.matmul(points, gauss, False, False)
    both = ops.add(ops.sin(angles), ops.cos(angles)) if periodic else angles
    table = ops.sin(ops.constant(rng.normal(0, 9, (1, WIDTH)).astype(np.float32)))
    mixed = ops.add(ops.add(both, image), table)
    weights = ops.constant(rng.normal(0, 1, (WIDTH, WIDTH)).astype(np.float32))
    # Not at the graph's end, which OpenVINO leaves in fp32.
    hidden = ops.matmul(mixed, weights, False, False)
    result = ops.result(ops.matmul(hidden, weights, False, False))
    result.output(0).get_tensor().set_names({"out"})
    return ov.Model([result], [points, image])


def run(model: ov.Model, precision: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, ov.Tensor(array))
    request.infer()
    return {
        name: request.get_tensor(name).data.copy()
        for port in compiled.outputs
        for name in port.names
    }


def run_split(precision: str, **inputs: np.ndarray) -> np.ndarray:
    before, rest = split_off_sines(encoding_model())
    return run(rest, precision, **inputs, **run(before, "f32", **inputs))["out"]


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "points": rng.uniform(-1, 1, (31, 2)).astype(np.float32),
        "image": rng.normal(size=(1, WIDTH)).astype(np.float32),
    }


def test_the_two_parts_are_the_model(inputs):
    expected = run(encoding_model(), "f32", **inputs)["out"]
    np.testing.assert_allclose(run_split("f32", **inputs), expected, rtol=0, atol=1e-4)


@pytest.mark.skipif("BF16" not in cpu_capabilities(), reason="this CPU has no bf16 instructions")
def test_angles_stay_exact_in_bf16(inputs):
    expected = run(encoding_model(), "f32", **inputs)["out"]
    whole = np.abs(run(encoding_model(), "bf16", **inputs)["out"] - expected).max()
    split = np.abs(run_split("bf16", **inputs) - expected).max()
    assert split < 0.05 * expected.std()
    assert whole > 5 * split


def test_only_sines_of_inputs_are_cut_off():
    before, rest = split_off_sines(encoding_model())
    assert len(before.outputs) == 2
    assert [node.get_type_name() for node in before.get_ordered_ops()].count("Sin") == 1
    assert [node.get_type_name() for node in rest.get_ordered_ops()].count("Sin") == 1
    assert split_off_sines(encoding_model(periodic=False)) is None
