"""``export --swappable-lora``, the whole way: from a SAM and a LoRA to the merged labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cellseg1_rt
from cellseg1_rt.backends.first_load import run_check
from cellseg1_rt.backends.onnxruntime_card import OnnxRuntimeOnCard
from cellseg1_rt.check import read_check, require_agreement
from cellseg1_rt.contract import WEIGHTS_NAME, read_manifest
from cellseg1_rt.errors import VerificationError
from cellseg1_rt.lora_pairs import read_pairs
from cellseg1_rt.model.lora import add_lora, lora_state, write_lora
from cellseg1_rt.model.weights import load_sam


def check_is_of_these_pairs(model: cellseg1_rt.Model) -> None:
    """What a card runs at the first load, with the CPU's memory as the card's."""
    check, pairs = (read(model.bundle, model.manifest) for read in (read_check, read_pairs))

    def run(pairs: dict[str, np.ndarray]) -> None:
        backend = OnnxRuntimeOnCard(model.manifest, model.backend._sessions, "cpu", 0, pairs)
        require_agreement(run_check(backend, check, model.manifest, 1024), "this", "none")

    run(pairs)
    with pytest.raises(VerificationError, match="graph encoder, tensor embedding"):
        run(pairs | {"lora_b": pairs["lora_b"] / 2})


@pytest.mark.slow
def test_labels_are_the_merged_bundles(run_command, tiny_folder, sample, tmp_path):
    """The packaged weights stand for a SAM; the LoRA is drawn, and still finds cells."""
    sam = tiny_folder / WEIGHTS_NAME
    generator = torch.Generator().manual_seed(5)
    with_lora = add_lora(load_sam(sam, read_manifest(tiny_folder).backbone), rank=3)
    for name, parameter in with_lora.named_parameters():
        if name.endswith(".b"):
            # Of the encoder's, so much that labels show it.
            std = 1.2 if name.startswith("image_encoder.") else 0.02
            parameter.data.normal_(std=std, generator=generator)
    lora, merged = tmp_path / "lora.pth", tmp_path / "merged.safetensors"
    write_lora(lora, lora_state(with_lora))
    for command in (
        ("merge", "--sam", sam, "--lora", lora, "-o", merged, "--backbone", "tiny"),
        ("export", merged, "-o", tmp_path / "whole", "--recipe", "tiny"),
        ("export", sam, "-o", tmp_path / "apart", "--recipe", "tiny", "--swappable-lora", lora),
    ):
        done = run_command(*command)
        assert done.code == 0, done.err
    labels = []
    for name in ("whole", "apart"):
        model = cellseg1_rt.load(tmp_path / name, runtime="onnxruntime")
        labels.append(model.segment(cellseg1_rt.read_image(sample).pixels).labels)
    check_is_of_these_pairs(model)
    packaged = cellseg1_rt.load("tiny", runtime="onnxruntime")
    plain = packaged.segment(cellseg1_rt.read_image(sample).pixels).labels
    assert labels[0].max() > 3
    assert np.count_nonzero((labels[0] > 0) != (labels[1] > 0)) <= 8
    assert labels[0].max() == labels[1].max()
    # Without the LoRA they are others.
    assert np.count_nonzero((labels[0] > 0) != (plain > 0)) > 80
    held = load_file(Path(tmp_path / "apart" / WEIGHTS_NAME))
    assert all(torch.equal(held[name], value) for name, value in load_file(sam).items())
