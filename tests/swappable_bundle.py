"""Swappable bundles that are quick to make: a small encoder really exported, the packaged decoders.

Decoders know nothing of the backbone, and exporting theirs takes most of an export's time. So those
of the packaged bundle are told that they belong to a swappable one; they have no LoRA merged.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import torch
from drawing import draw_weights
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.bundles import PACKAGED
from cellseg1_rt.contract import (
    DECODER_NAME,
    MANIFEST_NAME,
    METADATA_PREFIX,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
    read_manifest,
)
from cellseg1_rt.export.bundle import TOLERANCES
from cellseg1_rt.export.graphs import Encoder, SwappableEncoder
from cellseg1_rt.export.onnx_graphs import write_graph
from cellseg1_rt.export.swappable import store_swappable
from cellseg1_rt.export.weight_file import WeightFile
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.model.lora import add_lora, lora_state, write_lora
from cellseg1_rt.model.pairs import load_frozen_sam
from cellseg1_rt.model.precision import in_precision
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import write_safetensors
from cellseg1_rt.settings import InferenceSettings

SMALL = Backbone("small", 48, 1, 3, (0,), 5)
SIZE, RANK = 512, 3
"""The packaged decoders' size. One global block: another takes a second more to export."""


def drawn_lora(seed: int, backbone: Backbone = SMALL, size: int = SIZE) -> dict[str, Tensor]:
    return lora_state(draw_weights(add_lora(build_sam(backbone, size), RANK), seed))


def drawn_sam(backbone: Backbone = SMALL, size: int = SIZE) -> dict[str, Tensor]:
    return draw_weights(build_sam(backbone, size), 3).state_dict()


def bare_manifest(backbone: Backbone, size: int, precision: str = "fp32") -> Manifest:
    """Of a swappable bundle, without files."""
    settings, allowed = InferenceSettings(), TOLERANCES[precision]
    return Manifest(backbone, size, precision, settings, allowed, {}, {}, lora_rank=RANK)


def write_swappable(
    folder: Path, lora_seed: int, precision: str = "fp32", encoder: Path | None = None
) -> Path:
    """A bundle of one LoRA of the one SAM; its encoder is exported, or a copy of ``encoder``."""
    folder.mkdir(parents=True)
    sam, lora = folder.parent / f"{folder.name}.safetensors", folder.parent / f"{folder.name}.pth"
    write_safetensors(sam, drawn_sam(), {})
    write_lora(lora, drawn_lora(lora_seed))
    store_swappable(folder, sam, lora, SMALL, SIZE, torch.float32)
    bare = bare_manifest(SMALL, SIZE, precision)
    if encoder is None:
        _write_encoder(folder, bare)
    else:
        shutil.copy(encoder, folder)
    shutil.copy(PACKAGED["tiny"] / WEIGHTS_NAME, folder / DECODER_NAME)
    for name in ("prompt_decoder", "mask_head"):
        _write_decoder(folder / f"{name}.onnx", precision, f"of LoRA {lora_seed}")
    write_manifest(folder, bare)
    return folder


def _write_encoder(folder: Path, bare: Manifest) -> None:
    sam = in_precision(load_frozen_sam(folder, bare), bare.precision)
    write_graph(
        bare.graphs["encoder"],
        SwappableEncoder(Encoder(sam)),
        folder / "encoder.onnx",
        image_size=bare.image_size,
        precision=bare.precision,
        weights=WeightFile(folder / WEIGHTS_NAME, bare.precision),
        format_version=bare.format_version,
    )


def _write_decoder(path: Path, precision: str, of_lora: str) -> None:
    model = onnx.load(PACKAGED["tiny"] / path.name, load_external_data=False)
    said = {entry.key: entry for entry in model.metadata_props}
    said[METADATA_PREFIX + "format_version"].value = "2"
    said[METADATA_PREFIX + "precision"].value = precision
    model.doc_string = of_lora  # another hash for each LoRA
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = DECODER_NAME
    onnx.save(model, path)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write a manifest that lists what the folder holds now."""
    entries = {
        path.name: FileEntry(sha256_of_file(path), path.stat().st_size)
        for path in folder.iterdir()
        if path.is_file() and path.name != MANIFEST_NAME
    }
    written = Manifest(**{**vars(manifest), "files": entries})
    (folder / MANIFEST_NAME).write_text(written.to_json())
    return read_manifest(folder)
