"""Bundles that must be refused, and what is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import cellseg1_rt
from cellseg1_rt.contract import GRAPHS, METADATA_PREFIX, Manifest, read_manifest
from cellseg1_rt.errors import BundleError
from cellseg1_rt.files import sha256_of_file


@pytest.fixture
def bundle(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "bundle"))


def change_manifest(bundle: Path, **values: object) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, value in values.items():
        if value is None:
            del manifest[name]
        else:
            manifest[name] = value
    path.write_text(json.dumps(manifest))


def rehash(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    path = bundle / name
    files[name] = {"sha256": sha256_of_file(path), "size_bytes": path.stat().st_size}
    change_manifest(bundle, files=files)


def test_the_packaged_bundle_round_trips(tiny_folder):
    manifest = read_manifest(tiny_folder)
    assert isinstance(manifest, Manifest)
    assert json.loads(manifest.to_json()) == json.loads((tiny_folder / "manifest.json").read_text())


BAD_MANIFESTS = {
    "newer": ({"format_version": 3}, "got 3; expected 1 or 2. Fix: upgrade cellseg1-rt"),
    "swappable without a rank": ({"format_version": 2}, "no 'lora_rank'"),
    "swappable of no rank": (
        {"format_version": 2, "lora_rank": 0},
        "lora_rank is not one; got 0; expected a whole number from 1 on",
    ),
    "swappable of a rank that is none": (
        {"format_version": 2, "lora_rank": True},
        "lora_rank is not one; got True; expected a whole number from 1 on",
    ),
    "swappable without its files": (
        {"format_version": 2, "lora_rank": 4},
        "no entry for decoder.safetensors, lora.npz",
    ),
    "no version": ({"format_version": None}, "no format_version"),
    "missing field": ({"backbone": None}, "no 'backbone'"),
    "odd image size": ({"image_size": 500}, "got 500; expected a multiple of 16"),
    "unknown precision": ({"precision": "int3"}, "got int3; expected one of fp32"),
    "unknown setting": ({"settings": {"scroe": 0.5}}, "scroe"),
    "files unlisted": ({"files": {}}, "no entry for encoder.onnx"),
    "outside": (
        {"files": {"../x": {"sha256": "", "size_bytes": 0}}},
        "no entry for encoder.onnx",
    ),
    "settings of the wrong form": ({"settings": [1]}, "wrong form"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifests(name, bundle):
    values, says = BAD_MANIFESTS[name]
    change_manifest(bundle, **values)
    with pytest.raises(BundleError) as caught:
        cellseg1_rt.load(bundle)
    assert says in str(caught.value)
    assert "manifest.json" in str(caught.value)


def test_manifest_that_is_not_json(bundle):
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="manifest cannot be read"):
        cellseg1_rt.load(bundle)


def test_listed_file_outside_the_bundle(bundle):
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    files["../elsewhere"] = files["encoder.onnx"]
    change_manifest(bundle, files=files)
    with pytest.raises(BundleError, match="outside the bundle"):
        cellseg1_rt.load(bundle)


@pytest.mark.parametrize("name", ["encoder.onnx", "weights.safetensors"])
def test_changed_byte_is_found_by_hash(name, bundle):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        cellseg1_rt.load(bundle)
    assert f"{name}: file has another SHA-256" in str(caught.value)


def test_truncated_and_missing_files(bundle):
    path = bundle / "mask_head.onnx"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match=r"mask_head\.onnx: file has another size"):
        cellseg1_rt.load(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"mask_head\.onnx: file is missing"):
        cellseg1_rt.load(bundle)


def test_graph_of_another_kind_names_the_field(bundle):
    shutil.copy(bundle / "mask_head.onnx", bundle / "prompt_decoder.onnx")
    rehash(bundle, "prompt_decoder.onnx")
    with pytest.raises(BundleError) as caught:
        cellseg1_rt.load(bundle)
    assert "'cellseg1_rt.graph' does not fit; got 'mask_head'; expected 'prompt_decoder'" in str(
        caught.value
    )


def test_graph_of_another_image_size_names_the_field(bundle):
    path = bundle / "encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == METADATA_PREFIX + "image_size":
            entry.value = "1024"
    onnx.save(model, path)
    rehash(bundle, "encoder.onnx")
    with pytest.raises(BundleError, match="image_size' does not fit; got '1024'; expected '512'"):
        cellseg1_rt.load(bundle)


def test_graph_that_is_not_onnx(bundle):
    (bundle / "encoder.onnx").write_bytes(b"not a graph")
    rehash(bundle, "encoder.onnx")
    with pytest.raises(BundleError, match=r"encoder\.onnx: graph cannot be loaded"):
        cellseg1_rt.load(bundle)


def test_graphs_keep_the_contract(tiny_folder):
    """Names, order, types and shapes of what is on disk, read with onnx alone."""
    types = {"uint8": 2, "int32": 6, "int64": 7, "float32": 1, "precision": 1}
    sizes = {"S": 512, "g": 32, "T": 1024, "L": 128}
    for name, spec in GRAPHS.items():
        graph = onnx.load(tiny_folder / spec.file_name, load_external_data=False).graph
        for found, expected in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
            assert [value.name for value in found] == [tensor.name for tensor in expected]
            for value, tensor in zip(found, expected, strict=True):
                assert value.type.tensor_type.elem_type == types[tensor.dtype], (name, tensor)
                shape = [
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param
                    for dim in value.type.tensor_type.shape.dim
                ]
                assert shape == [sizes.get(side, side) for side in tensor.shape], (name, tensor)
