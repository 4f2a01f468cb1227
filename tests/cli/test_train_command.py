"""``train`` as a person uses it: from an annotated image to a LoRA, and on to a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import disks
from drawing import draw_weights
from PIL import Image

import cellseg1_rt
from cellseg1_rt.backbone import Backbone
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.model.lora import read_lora, read_provenance
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train import lora_loop

SMALL = Backbone("small", 24, 2, 2, (1,), 2)
EXPORT_RECIPE = """
image_size = 64
precision = "fp32"
weight_storage = "fp32"

[backbone]
name = "small"
embed_dim = 24
depth = 2
num_heads = 2
global_attn_indexes = [1]
window_size = 2
"""
RECIPE = """
seed = 3

[lora]
rank = 4
dropout = 0.1

[optimizer]
learning_rate = 3e-3
weight_decay = 0.01
rising_share = 0.3
batch_tiles = 2
batches_per_step = 8

[schedule]
epochs = 2
few_images = 10
epochs_of_many = 1

[data]
image_size = 64
tile_px = 61
smallest_set = 2
smallest_cell_px = 20
edge_band_px = 3
"""
STOP = """
[early_stop]
corner_share = 0.4
least_cells = 1
validate_every = 1
patience = 3
"""
START = ("train", "image.png", "labels.png")
REST = ("--sam", "sam.pth", "--backbone", "small.toml", "--recipe", "recipe.toml")
COMMAND = (*START, "-o", "lora.pth", *REST)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    image, labels = disks(3, 59, 61, radius=6, gap=3)
    Image.fromarray(image).save("image.png")
    Image.fromarray(labels.astype(np.uint16)).save("labels.png")
    Path("small.toml").write_text(EXPORT_RECIPE)
    Path("recipe.toml").write_text(RECIPE)
    torch.save(draw_weights(build_sam(SMALL, 64), 3).state_dict(), "sam.pth")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    Path("sam.pth").unlink()


def digest(name: str) -> str:
    return sha256(Path(name).read_bytes()).hexdigest()


def test_writes_a_lora_with_its_provenance(run_command, folder):
    done = run_command(*COMMAND)
    assert done.code == 0, done.err
    assert done.out.endswith("lora.pth: trained, epoch 2 kept (finished)\n")
    assert "seconds_left 0" in done.out
    assert "device cpu" in done.err
    lora = read_lora("lora.pth", SMALL, rank=4)
    assert any(value.any() for key, value in lora.items() if "_b_" in key)
    beside = json.loads(Path("lora.json").read_text())
    assert beside["lora_sha256"] == digest("lora.pth")
    assert beside["training_sam_sha256"] == digest("sam.pth")
    assert beside["training_seed"] == "3"
    assert beside["training_epochs"] == "2 of 2"
    assert json.loads(beside["training_recipe"])["optimizer"]["learning_rate"] == 3e-3
    assert json.loads(beside["training_image_size_px"]) == [59, 61]
    assert json.loads(beside["training_images"])[0]["sha256"] == digest("image.png")
    assert beside["trained_with"].startswith("cellseg1-rt ")
    assert sorted(path.name for path in Path("lora.work").iterdir()) == [
        "checkpoint.pt",
        "curves.png",
        "log.jsonl",
        "preview.png",
    ]
    assert "preview.png: " in done.err
    with Image.open("lora.work/preview.png") as preview:
        assert preview.size == (61 + 8 + 61, 28 + 59)


def test_the_preview_looks_as_finely_as_the_cells_ask_for(run_command, folder):
    image, labels = disks(3, 131, 137, radius=3, gap=3)
    Image.fromarray(image).save("image.png")
    Image.fromarray(labels.astype(np.uint16)).save("labels.png")
    done = run_command(*COMMAND)
    assert done.code == 0, done.err
    assert "cells found in image.png with --crops 1, beside its annotation" in done.err


def test_one_command_from_an_image_to_a_bundle(run_command, folder):
    Path("recipe.toml").write_text("least_width_px = 20\n" + RECIPE)
    done = run_command(*START, "-o", "lora.safetensors", *REST, "--bundle", "bundle")
    assert done.code == 0, done.err
    assert "bundle: merged and exported, within " in done.out
    manifest = read_manifest(Path("bundle"))
    provenance = manifest.provenance
    assert manifest.settings.crops == 2  # disks of 12 px would be met by the grid as they are
    assert provenance["sam_sha256"] == provenance["training_sam_sha256"] == digest("sam.pth")
    assert provenance["lora_sha256"] == digest("lora.safetensors")
    assert json.loads(provenance["training_image_size_px"]) == [59, 61]
    assert read_provenance("lora.safetensors").items() <= provenance.items()
    assert not list(folder.glob(".merge-*"))
    again = run_command(*START, "-o", "other.pth", *REST, "--bundle", "bundle")
    assert again.code == 2
    assert again.err.startswith("error: bundle: already there; expected a folder that does not")
    assert not Path("other.pth").exists()


def test_resume_or_refuse(run_command, folder):
    assert run_command(*COMMAND, "--work", "kept").code == 0
    first = Path("lora.pth").read_bytes()
    Path("lora.pth").unlink()
    refused = run_command(*COMMAND, "--work", "kept")
    assert refused.code == 2
    assert refused.err == (
        "error: kept: holds the checkpoint of another run. "
        "Fix: pass --resume to go on from it, or choose another --work folder\n"
    )
    resumed = run_command(*COMMAND, "--work", "kept", "--resume")
    assert resumed.code == 0, resumed.err
    assert Path("lora.pth").read_bytes() == first


def test_a_held_out_corner(run_command, folder):
    Path("recipe.toml").write_text(RECIPE + STOP)
    done = run_command(*COMMAND)
    assert done.code == 0, done.err
    assert "held out: a corner with " in done.err
    assert "held_out_score" in done.out


def test_too_little_to_hold_out_is_said(run_command, folder):
    Path("recipe.toml").write_text(RECIPE + STOP.replace("least_cells = 1", "least_cells = 99"))
    done = run_command(*COMMAND, "--epochs", "1")
    assert done.code == 0, done.err
    assert "warning: nothing is held out, so training does not stop early" in done.err
    assert "held_out_score" not in done.out


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train_epoch, calls = lora_loop._train_epoch, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > epochs:
            raise KeyboardInterrupt
        train_epoch(*arguments)

    monkeypatch.setattr(lora_loop, "_train_epoch", interrupted)


def test_an_interrupt_keeps_what_is_done(run_command, folder, monkeypatch):
    interrupt_after(1, monkeypatch)
    done = run_command(*COMMAND)
    assert done.code == 130
    assert "lora.pth: LoRA of epoch 1 of 2" in done.err
    read_lora("lora.pth", SMALL)
    assert json.loads(Path("lora.json").read_text())["training_epochs"] == "1 of 2"


def test_an_early_interrupt_writes_nothing(run_command, folder, monkeypatch):
    interrupt_after(0, monkeypatch)
    done = run_command(*COMMAND)
    assert done.code == 130
    assert "lora.pth: not written, since not one epoch was finished" in done.err
    assert not Path("lora.pth").exists()


def test_a_loss_that_is_not_finite_keeps_the_last_good_epoch(run_command, folder, monkeypatch):
    add_gradients, calls = lora_loop.add_gradients, 0

    def spoilt(sam: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        losses = add_gradients(sam, *arguments)
        if calls > 2:
            lora_loop.lora_parameters(sam)[0].grad.fill_(math.nan)
        return losses

    monkeypatch.setattr(lora_loop, "add_gradients", spoilt)
    done = run_command(*COMMAND)
    assert done.code == 2
    assert "error: epoch 2, batch " in done.err
    assert "step 2: loss or gradient is not finite" in done.err
    assert all(bool(v.isfinite().all()) for v in read_lora("lora.pth", SMALL).values())


def test_folders(run_command, folder):
    for part in ("image", "labels"):
        Path(f"{part}s").mkdir()
        for name in ("a", "b"):
            Path(f"{part}s", f"{name}.png").write_bytes(Path(f"{part}.png").read_bytes())
    done = run_command("train", "images", "labelss", "-o", "lora.pth", *REST, "--epochs", "1")
    assert done.code == 0, done.err
    assert "2 images, " in done.err
    rows = json.loads(json.loads(Path("lora.json").read_text())["training_images"])
    assert [row["name"] for row in rows] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "options, code, message",
    [
        (("--recipe", "minute"), 2, "error: minute: no such train recipe; expected one of "),
        (("--recipe", "tiny"), 2, "error: train recipe: a recipe for pretrain, not for train"),
        (("-o", "lora.bin"), 2, "error: lora.bin: not a name for a LoRA file"),
        (("--precision", "fp16"), 2, "error: precision: not offered; got fp16"),
        (("--batch", "0"), 2, "error: batch: out of range; got 0"),
        (("--epochs", "0"), 2, "error: epochs: out of range; got 0"),
        (("--device", "cuda:91"), 2, "error: device: this device is not there; got cuda:91"),
        (("--device", "gpu"), 2, "error: device: no such device; got gpu"),
        (("--backbone", "vit_b"), 2, "error: sam.pth: this SAM has another backbone"),
        (("--sam", "none.pth"), 2, "error: none.pth: no such weights file"),
        (("--sam", "tiny"), 2, "error: tiny: this bundle has another backbone; got tiny"),
        (("--work", "recipe.toml"), 2, "error: recipe.toml: cannot write into this folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_arguments_that_cannot_be_followed(
    run_command, folder, options: tuple[str, ...], code: int, message: str
):
    done = run_command(*COMMAND, *options)
    assert done.code == code
    assert message in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert not Path("lora.pth").exists()


def test_a_checkpoint_needs_its_backbone(run_command, folder):
    done = run_command(*START, "-o", "lora.pth", "--sam", "sam.pth")
    assert done.code == 2
    assert "Fix: pass --backbone vit_h, vit_l or vit_b" in done.err


@pytest.mark.parametrize(
    "labels, message",
    [
        pytest.param(np.ones((59, 60)), "labels.png: labels of another size", id="size"),
        pytest.param(np.zeros((59, 61)), "labels.png: no cells", id="no-cells"),
        pytest.param(np.ones((59, 61)), "labels.png: one cell covers everything", id="one-cell"),
    ],
)
def test_labels_that_cannot_be_used(run_command, folder, labels: np.ndarray, message: str):
    Image.fromarray(labels.astype(np.uint16)).save("labels.png")
    done = run_command(*COMMAND)
    assert done.code == 1
    assert f"error: {message}" in done.err
    assert not Path("lora.pth").exists()


def test_from_python_with_the_packaged_model(folder):
    """The name of the package is the function's too; ``tiny`` brings weights and backbone."""
    Path("recipe.toml").write_text(
        RECIPE.replace("image_size = 64", "image_size = 512").replace("0.1", "0.0")
    )
    told: list[str] = []
    trained = cellseg1_rt.train(
        "image.png", "labels.png", "lora.safetensors", recipe="recipe.toml", epochs=1,
        batch=1, tell=told.append,
    )  # fmt: skip
    assert (trained.epoch, trained.ended) == (1, "finished")
    tiny = read_manifest(Path(cellseg1_rt.__file__).parent / "assets" / "tiny").backbone
    lora = read_lora("lora.safetensors", tiny)
    assert trained.state is not None
    assert all(torch.equal(lora[key], value) for key, value in trained.state.items())
    assert any("3 tiles, 2 batches × 1 epochs" in line for line in told)
    with pytest.raises(ConfigError, match="holds the checkpoint of another run"):
        cellseg1_rt.train("image.png", "labels.png", "lora.safetensors", recipe="recipe.toml")


def test_help(run_command):
    done = run_command("train", "--help")
    assert done.code == 0
    for words in ("--sam", "--backbone", "--recipe", "--resume", "--bundle", "--precision"):
        assert words in done.out
