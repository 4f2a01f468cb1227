"""Of what training changes, the share that is kept: what it comes from, and what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from annotated import disks
from drawing import draw_weights
from PIL import Image
from segment_anything.modeling import Sam

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.export.merge import merge_lora
from cellseg1_rt.model.lora import add_lora, lora_state, read_lora, read_provenance
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.torch_backend import TorchBackend
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.train.lora_choices import SamSource, TrainOptions
from cellseg1_rt.train.lora_files import train_files
from cellseg1_rt.train.lora_inputs import TrainingImage
from cellseg1_rt.train.lora_recipe import LoraRecipe
from cellseg1_rt.train.start_share import found_before, shared_lora

SMALL = Backbone("small", 24, 2, 2, (1,), 2)
IMAGE, _ = disks(3, 59, 61, radius=6, gap=3)
RECIPE = {
    "seed": 3,
    "lora": {"rank": 3, "dropout": 0.0},
    "optimizer": {
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "rising_share": 0.3,
        "batch_tiles": 1,
        "batches_per_step": 1,
        "heads_share": 0.5,
    },
    "schedule": {"epochs": 1, "few_images": 1, "epochs_of_many": 1},
    "data": {"image_size": 64, "tile_px": 61, "smallest_set": 2, "smallest_cell_px": 20},
}


def sam_that_finds_cells() -> Sam:
    """Drawn weights, with scores near 3 and logits far from 0, so that masks pass the filters."""
    sam = draw_weights(build_sam(SMALL, 64), 0).eval()
    with torch.no_grad():
        head = sam.mask_decoder.iou_prediction_head.layers[-1]
        head.weight.mul_(0.1)
        head.bias.fill_(3.0)
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(300)
    return sam


@pytest.fixture(scope="module")
def annotation() -> np.ndarray:
    """The one cell that this SAM finds, and one that it does not: AP is a half."""
    found = segment_rgb(IMAGE, TorchBackend(sam_that_finds_cells()), InferenceSettings()).labels
    labels = (found == 1).astype(np.int32)
    assert labels.any()
    assert found.max() == 1
    free = np.argwhere(labels == 0)
    y, x = free[np.abs(free - np.argwhere(labels)[0]).sum(axis=1).argmax()]
    window = labels[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8]
    assert not window.any()
    window[:] = 2
    return labels


def test_what_was_found_before(annotation):
    images = [
        TrainingImage(Path(name), ("", ""), IMAGE, labels, None)
        for name, labels in (("half", annotation), ("all", (annotation == 1).astype(np.int32)))
    ]
    sam, settings = sam_that_finds_cells(), InferenceSettings()
    assert found_before(sam, images[:1], settings) == 0.5
    assert found_before(sam, images, settings) == 0.75


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_merged_it_lies_between(share: float):
    sites = lora_sites(SMALL.depth, SMALL.embed_dim)
    base = draw_weights(build_sam(SMALL, 64), 5).state_dict()
    start = lora_state(add_lora(draw_weights(build_sam(SMALL, 64), 5), 3))
    trained = lora_state(draw_weights(add_lora(build_sam(SMALL, 64), 3), 6))
    shared = shared_lora(start, trained, sites, share)
    before, after, between = (merge_lora(base, state, SMALL) for state in (start, trained, shared))
    assert any((before[key] != after[key]).any() for key in before)
    for key in before:
        expected = before[key].double() + share * (after[key].double() - before[key].double())
        torch.testing.assert_close(between[key].double(), expected, rtol=1e-5, atol=1e-6)


def test_training_keeps_the_share_that_was_missing(annotation, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    Image.fromarray(annotation.astype(np.uint16)).save(tmp_path / "labels.png")
    sam = sam_that_finds_cells()
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    told: list[str] = []
    for keep_known in (False, True):
        train_files(
            tmp_path / "image.png",
            tmp_path / "labels.png",
            tmp_path / f"{keep_known}.pth",
            SamSource(backbone=SMALL, weights=tmp_path / "sam.pth"),
            LoraRecipe.from_dict({**RECIPE, "keep_known": keep_known}),
            TrainOptions(device="cpu"),
            tell=told.append,
        )
    whole, half = (read_lora(tmp_path / f"{name}.pth", SMALL) for name in ("False", "True"))
    start = sam.state_dict()
    scaled = {site.b_key for site in lora_sites(SMALL.depth, SMALL.embed_dim)}
    for key, value in whole.items():
        if key in start:
            expected = (start[key] + value) / 2
        else:
            expected = value / 2 if key in scaled else value
        torch.testing.assert_close(half[key], expected, rtol=1e-6, atol=1e-7)
    assert any(whole[key].any() for key in scaled)
    assert any((whole[key] != start[key]).any() for key in whole.keys() & start.keys())
    said = "AP@0.5 of the annotation before training: 0.50; 50% of what training changes is kept"
    assert told.count(said) == 1
    shares = [read_provenance(tmp_path / f"{name}.pth") for name in ("False", "True")]
    assert [one["training_share_kept"] for one in shares] == ["1.0000", "0.5000"]
