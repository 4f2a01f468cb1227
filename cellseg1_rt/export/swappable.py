"""What a swappable bundle keeps on disk: the SAM frozen, a LoRA's pairs and its decoder beside it.

May import torch and safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.contract import DECODER_NAME, WEIGHTS_NAME
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.export.merge import merge_lora
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.lora_pairs import write_pairs
from cellseg1_rt.model.lora import read_lora, read_provenance
from cellseg1_rt.model.pairs import ENCODER_PREFIX, EncoderPairs
from cellseg1_rt.model.weights import read_metadata, read_sam_state, write_safetensors

__all__ = ["store_swappable"]


def store_swappable(
    folder: Path,
    weights: Path,
    lora: Path,
    backbone: Backbone,
    image_size: int,
    dtype: torch.dtype,
) -> dict[str, str]:
    """Write a swappable bundle's weights and pairs.

    ``weights.safetensors`` is the whole SAM as it was, so its bytes are the same whatever the LoRA.
    ``decoder.safetensors`` is what the LoRA makes of prompt encoder and mask decoder.

    Parameters
    ----------
    folder : where to.
    weights : the SAM that the LoRA was trained on.
    lora : the LoRA's file.
    backbone, image_size : of both.
    dtype : what weights rest in; pairs are float32.

    Returns
    -------
    Provenance of both, by name.

    Raises
    ------
    WeightsError : if a file is damaged or does not fit, the SAM has a LoRA merged already, or the
        LoRA tells that it was trained on another.
    """
    said, told = read_metadata(weights), read_provenance(lora)
    _require_its_sam(weights, said, told)
    state = read_sam_state(weights, backbone, image_size)
    update = read_lora(lora, backbone)
    metadata = {"backbone": backbone.name, "image_size": str(image_size)}
    write_safetensors(folder / WEIGHTS_NAME, state, metadata, dtype)
    merged = merge_lora(state, update, backbone)
    decoder = {key: value for key, value in merged.items() if not key.startswith(ENCODER_PREFIX)}
    write_safetensors(folder / DECODER_NAME, decoder, metadata, dtype)
    pairs = EncoderPairs.of_lora(update, backbone)
    write_pairs(folder, pairs.to_arrays())
    own = {"lora_sha256": sha256_of_file(lora), "lora_rank": str(pairs.a.shape[1])}
    return said | told | own


def _require_its_sam(weights: Path, said: Mapping[str, str], told: Mapping[str, str]) -> None:
    """Refuse weights that cannot be those a LoRA was trained on, by what both files tell."""
    if "lora_sha256" in said:
        raise WeightsError(
            "these weights have a LoRA merged already",
            where=weights,
            expected="the SAM that the LoRA was trained on",
            fix="name that SAM, or export these weights without --swappable-lora",
        )
    trained_on = told.get("training_sam_sha256")
    found = sha256_of_file(weights)
    if trained_on not in (None, found):
        raise WeightsError(
            "the LoRA was trained on another file than these weights",
            where=weights,
            got=f"sha256 {found}",
            expected=f"sha256 {trained_on}",
            fix="name the file that 'train --sam' was given",
        )
