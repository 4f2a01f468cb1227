"""Bundles whose encoder takes a LoRA's pairs, against SAM's own encoder with the LoRA merged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file
from swappable_bundle import (
    RANK,
    SIZE,
    SMALL,
    bare_manifest,
    drawn_lora,
    drawn_sam,
    write_manifest,
    write_swappable,
)

import cellseg1_rt
from cellseg1_rt.backbone import Backbone
from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend
from cellseg1_rt.backends.onnxruntime_card import OnnxRuntimeOnCard
from cellseg1_rt.backends.openvino import OpenVinoBackend
from cellseg1_rt.contract import DECODER_NAME, PAIRS_NAME, WEIGHTS_NAME, read_manifest
from cellseg1_rt.errors import BundleError, WeightsError
from cellseg1_rt.export.graphs import Encoder
from cellseg1_rt.export.plain_graphs import PlainEncoder
from cellseg1_rt.export.swappable import store_swappable
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.lora_pairs import read_pairs
from cellseg1_rt.model.lora import write_lora
from cellseg1_rt.model.pairs import EncoderPairs, load_bundle_sam, load_frozen_sam
from cellseg1_rt.model.precision import DTYPES, in_precision
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import write_safetensors

FIRST, SECOND = 11, 13
DEEP, DEEP_SIZE = Backbone("deep", 48, 3, 3, (1,), 5), 112
"""A global block between windowed ones, for what needs no graph: a grid of 7 in windows of 5."""


def drawn_images(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images and their sizes; of the second one, a part is valid."""
    images = np.random.default_rng(7).integers(0, 256, (2, side, side, 3), np.uint8)
    return images, np.array([[side, side], [side * 2 // 3, side - 25]], np.int32)


IMAGES, SIZES = drawn_images(SIZE)


@cache
@torch.no_grad()
def merged(seed: int | None, backbone: Backbone = SMALL, side: int = SIZE) -> np.ndarray:
    """What SAM's own encoder gives for drawn images, a LoRA merged by hand; None: without one."""
    weights, width = drawn_sam(backbone, side), backbone.embed_dim
    lora = {} if seed is None else drawn_lora(seed, backbone, side)
    for block in range(backbone.depth if lora else 0):
        weight = weights[f"image_encoder.blocks.{block}.attn.qkv.weight"]
        q, v = f"{2 * block:03d}", f"{2 * block + 1:03d}"
        weight[:width] += lora[f"w_b_{q}"] @ lora[f"w_a_{q}"]
        weight[2 * width :] += lora[f"w_b_{v}"] @ lora[f"w_a_{v}"]
    sam = build_sam(backbone, side)
    sam.load_state_dict(weights)
    found = []
    for image, (height, width_px) in zip(*drawn_images(side), strict=True):
        valid = torch.from_numpy(image[:height, :width_px]).permute(2, 0, 1)
        found.append(sam.image_encoder(sam.preprocess(valid.float())[None]))
    return torch.cat(found).numpy()


@pytest.fixture
def sources(tmp_path) -> tuple[Path, Path]:
    """The files that a swappable bundle is made of: a SAM, and the first LoRA of it."""
    sam, lora = tmp_path / "sam.safetensors", tmp_path / "lora.pth"
    write_safetensors(sam, drawn_sam(DEEP, DEEP_SIZE), {})
    write_lora(lora, drawn_lora(FIRST, DEEP, DEEP_SIZE))
    return sam, lora


@pytest.fixture
def stored(sources, tmp_path) -> Path:
    """The folder of a bundle without graphs."""
    store_swappable(tmp_path, *sources, DEEP, DEEP_SIZE, torch.float32)
    return tmp_path


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / wanted.std())


def on_onnxruntime(bundle: Path) -> np.ndarray:
    backend = OnnxRuntimeBackend(bundle, read_manifest(bundle))
    found = backend.encode(IMAGES, SIZES)
    return np.concatenate([backend.embedding_on_host(each) for each in found])


def on_openvino(bundle: Path) -> np.ndarray:
    backend = OpenVinoBackend(bundle, read_manifest(bundle))
    return np.concatenate([each.tensor().data for each in backend.encode(IMAGES, SIZES)])


def on_a_card(bundle: Path) -> np.ndarray:
    """ONNX Runtime bound to device memory, with the CPU's as the device's."""
    manifest = read_manifest(bundle)
    sessions = {"encoder": ort.InferenceSession(str(bundle / "encoder.onnx"))}
    backend = OnnxRuntimeOnCard(manifest, sessions, "cpu", 0, read_pairs(bundle, manifest))
    return np.concatenate(
        [backend.embedding_on_host(each) for each in backend.encode(IMAGES, SIZES)]
    )


RUNS = {"onnxruntime": on_onnxruntime, "openvino": on_openvino, "card": on_a_card}


@pytest.mark.parametrize("name", RUNS)
def test_an_encoder_with_pairs_is_the_merged_encoder(name, swappable):
    found = RUNS[name](swappable(FIRST))
    assert off(found, merged(FIRST)) <= 1e-4
    # The LoRA is not a trifle that a tolerance could hide.
    assert off(found, merged(None)) > 0.5


def test_labels_are_those_of_the_merged_encoder(swappable, monkeypatch):
    """The bundle's own, and those of its decoders over what SAM's own encoder gives.

    Weights are drawn, so all candidates are taken; what the score is does not matter here.
    """
    chosen = {"points_per_side": 4, "score": 0.0, "stability": 0.0, "max_area_ratio": 0.0}
    model = cellseg1_rt.load(swappable(FIRST), runtime="onnxruntime", **chosen)
    found = model.segment(IMAGES[0]).labels

    def labels_of(embedding: np.ndarray) -> np.ndarray:
        def encode(images: np.ndarray, sizes: np.ndarray) -> list[ort.OrtValue]:
            np.testing.assert_array_equal(images, IMAGES[:1])
            return [ort.OrtValue.ortvalue_from_numpy(embedding[:1])]

        monkeypatch.setattr(model.backend, "encode", encode)
        return model.segment(IMAGES[0]).labels

    wanted, without = labels_of(merged(FIRST)), labels_of(merged(None))
    assert found.max() == wanted.max() > 3
    assert np.count_nonzero(found != wanted) <= 8
    assert np.count_nonzero((found > 0) != (without > 0)) > 80


@pytest.mark.slow
def test_a_graph_in_fp16(swappable):
    found = on_a_card(swappable(FIRST, "fp16"))
    assert 1e-4 < off(found, merged(FIRST)) <= 0.02


@pytest.mark.parametrize("precision, allowed", [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.2)])
@torch.no_grad()
def test_every_operation_rounded(precision, allowed, stored):
    """The module that is exported, in PyTorch, which rounds each operation."""
    sam = in_precision(load_frozen_sam(stored, bare_manifest(DEEP, DEEP_SIZE)), precision)
    encoder = Encoder(sam, EncoderPairs.in_folder(stored))
    found = encoder(*map(torch.from_numpy, drawn_images(DEEP_SIZE)))
    assert found.dtype == DTYPES[precision]
    assert off(found.float().numpy(), merged(FIRST, DEEP, DEEP_SIZE)) <= allowed


@torch.no_grad()
def test_a_bundles_sam_in_one_piece(stored):
    """What every export is verified against, and what the plain path runs."""
    encoder = PlainEncoder(load_bundle_sam(stored, bare_manifest(DEEP, DEEP_SIZE)))
    found = encoder(*map(torch.from_numpy, drawn_images(DEEP_SIZE)))
    assert off(found.numpy(), merged(FIRST, DEEP, DEEP_SIZE)) <= 1e-4
    assert off(found.numpy(), merged(None, DEEP, DEEP_SIZE)) > 0.5


@pytest.mark.slow
def test_exports_of_two_loras_have_one_encoder(swappable, tmp_path):
    bundles = swappable(FIRST), write_swappable(tmp_path / "second", SECOND)
    files = [read_manifest(bundle).files for bundle in bundles]
    same = {name for name in files[0] if files[0][name].sha256 == files[1][name].sha256}
    # Here decoder.safetensors is the packaged one, in both.
    assert same == {"encoder.onnx", WEIGHTS_NAME, DECODER_NAME}


def test_what_is_stored_of_two_loras(stored, sources, tmp_path):
    """All that a LoRA changes lies outside the file that the encoder refers to."""
    lora, second = tmp_path / "second.pth", tmp_path / "second"
    write_lora(lora, drawn_lora(SECOND, DEEP, DEEP_SIZE))
    second.mkdir()
    store_swappable(second, sources[0], lora, DEEP, DEEP_SIZE, torch.float32)
    same = {
        name: (stored / name).read_bytes() == (second / name).read_bytes()
        for name in (WEIGHTS_NAME, DECODER_NAME, PAIRS_NAME)
    }
    assert same == {WEIGHTS_NAME: True, DECODER_NAME: False, PAIRS_NAME: False}


def test_other_pairs_make_another_model(swappable, tmp_path):
    """The second LoRA's pairs in the first one's bundle: no graph is touched."""
    bundle = Path(shutil.copytree(swappable(FIRST), tmp_path / "bundle"))
    shutil.copy(swappable(SECOND) / PAIRS_NAME, bundle / PAIRS_NAME)
    write_manifest(bundle, read_manifest(bundle))
    found = on_onnxruntime(bundle)
    assert off(found, merged(SECOND)) <= 1e-4
    assert off(found, merged(FIRST)) > 0.5


def test_what_a_loras_decoder_is_and_what_the_sam_stays(sources, tmp_path):
    """Every tensor outside the encoder comes from the LoRA or has its product added."""
    store_swappable(tmp_path, *sources, DEEP, DEEP_SIZE, torch.float16)
    state, lora = load_file(sources[0]), drawn_lora(FIRST, DEEP, DEEP_SIZE)
    frozen, decoder = load_file(tmp_path / WEIGHTS_NAME), load_file(tmp_path / DECODER_NAME)
    assert {name: tensor.dtype for name, tensor in frozen.items()} == dict.fromkeys(
        state, torch.float16
    )
    assert all(torch.equal(frozen[name], state[name].half()) for name in state)
    assert set(decoder) == {name for name in state if not name.startswith("image_encoder.")}
    key = "prompt_encoder.not_a_point_embed.weight"
    assert torch.equal(decoder[key], lora[key].half())
    key = "mask_decoder.transformer.final_attn_token_to_image.v_proj.weight"
    wanted = state[key].double() + lora["fati_vb"].double() @ lora["fati_va"].double()
    assert torch.equal(decoder[key], wanted.float().half())


def reshaped(bundle: Path) -> None:
    held = np.load(bundle / PAIRS_NAME)
    np.savez(bundle / PAIRS_NAME, lora_a=held["lora_a"][:-1], lora_b=held["lora_b"])


def reranked(bundle: Path) -> None:
    held = np.load(bundle / PAIRS_NAME)
    np.savez(bundle / PAIRS_NAME, lora_a=held["lora_a"][:, 1:], lora_b=held["lora_b"][..., 1:])


def halved(bundle: Path) -> None:
    held = np.load(bundle / PAIRS_NAME)
    np.savez(bundle / PAIRS_NAME, lora_a=held["lora_a"], lora_b=held["lora_b"].astype(np.float16))


DAMAGED = {
    "another-shape": (
        reshaped,
        f"lora_a; got float32 [1, {RANK}, 48]; expected float32 [2, {RANK}, 48]",
    ),
    "another-rank": (
        reranked,
        f"lora_a; got float32 [2, {RANK - 1}, 48]; expected float32 [2, {RANK}, 48]",
    ),
    "another-type": (halved, f"lora_b; got float16 [2, 48, {RANK}]; expected float32"),
    "cut-off": (
        lambda bundle: (bundle / PAIRS_NAME).write_bytes(b"PK\3\4"),
        "the LoRA's pairs cannot be read",
    ),
    "not-there": (
        lambda bundle: (bundle / PAIRS_NAME).unlink(),
        "the LoRA's pairs cannot be read; got [Errno 2] No such file or directory",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_pairs_that_the_encoder_cannot_take(name, swappable, tmp_path):
    damage, says = DAMAGED[name]
    manifest = read_manifest(swappable(FIRST))
    shutil.copy(swappable(FIRST) / PAIRS_NAME, tmp_path)
    damage(tmp_path)
    with pytest.raises(BundleError) as caught:
        read_pairs(tmp_path, manifest)
    assert str(tmp_path / PAIRS_NAME) in str(caught.value)
    assert says in str(caught.value)


def test_an_encoder_of_the_other_kind_is_named(swappable, tmp_path):
    """A manifest that says nothing of pairs, over an encoder that takes them."""
    bundle = Path(shutil.copytree(swappable(FIRST), tmp_path / "bundle"))
    manifest = write_manifest(bundle, replace(read_manifest(bundle), lora_rank=None))
    with pytest.raises(BundleError, match="format_version' does not fit; got '2'; expected '1'"):
        OnnxRuntimeBackend(bundle, manifest)


def test_a_sam_that_has_a_lora_already(sources, tmp_path):
    sam, lora = sources
    write_safetensors(sam, load_file(sam), {"lora_sha256": "0" * 64})
    with pytest.raises(WeightsError) as caught:
        store_swappable(tmp_path, sam, lora, DEEP, DEEP_SIZE, torch.float32)
    assert "these weights have a LoRA merged already" in str(caught.value)
    assert not (tmp_path / WEIGHTS_NAME).exists()


def test_a_lora_of_another_sam(sources, tmp_path):
    """A LoRA that ``train`` wrote tells which file it was trained on."""
    sam, lora = sources
    found = sha256_of_file(sam)
    told = {"training_sam_sha256": "0" * 64}
    write_lora(lora, drawn_lora(FIRST, DEEP, DEEP_SIZE), told)
    with pytest.raises(WeightsError) as caught:
        store_swappable(tmp_path, sam, lora, DEEP, DEEP_SIZE, torch.float32)
    assert str(caught.value) == (
        f"{sam}: the LoRA was trained on another file than these weights; got sha256 {found}; "
        f"expected sha256 {'0' * 64}. Fix: name the file that 'train --sam' was given"
    )
    assert not (tmp_path / WEIGHTS_NAME).exists()
    write_lora(lora, drawn_lora(FIRST, DEEP, DEEP_SIZE), {"training_sam_sha256": found})
    store_swappable(tmp_path, sam, lora, DEEP, DEEP_SIZE, torch.float32)
