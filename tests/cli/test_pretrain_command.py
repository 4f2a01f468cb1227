"""``pretrain`` as a person uses it: from a folder and a recipe to weights that load."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.model.weights import load_sam, read_metadata, read_tensors
from cellseg1_rt.train.pretrain_data import read_pairs

SMALL = Backbone("small", 48, 3, 3, (1,), 5)
EXPORT_RECIPE = """
image_size = 64
precision = "fp32"
weight_storage = "fp32"

[backbone]
name = "small"
embed_dim = 48
depth = 3
num_heads = 3
global_attn_indexes = [1]
window_size = 5
"""
RECIPE = """
backbone = "small.toml"
image_size = 64
seed = 3
held_out_images = 1
validate_every = 2
checkpoint_every = 2
average_decay = 0.9

[optimizer]
learning_rate = 1e-3
weight_decay = 0.02
beta1 = 0.9
beta2 = 0.98
warmup_steps = 2
decay_share = 0.5
clip_norm = 1.0

[loss]
focal = 20.0
focal_gamma = 2.0
dice = 1.0
neighbours = 1.0
quality = 0.4
score = 2.0
dense = 1.0

[[stages]]
window_px = 48
steps = 1
images_per_step = 1
points_per_image = 5
synthetic_share = 0.0

[[stages]]
window_px = 64
steps = 2
images_per_step = 1
points_per_image = 5
synthetic_share = 0.0
"""
COMMAND = ("pretrain", "-o", "out.safetensors", "--data", "data", "--recipe", "recipe.toml")


def write_pair(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((53, 61), np.uint16)
    for label, x in enumerate((11, 30, 49), start=1):
        cv2.circle(labels, (x, int(rng.integers(10, 43))), 8, label, -1)
    grey = (np.where(labels > 0, 180, 30) + rng.integers(0, 40, labels.shape)).astype(np.uint8)
    for part, pixels in (("images", grey), ("labels", labels)):
        Path("data", part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(Path("data", part, f"{name}.png"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(EXPORT_RECIPE)
    Path("recipe.toml").write_text(RECIPE)
    for number in range(3):
        write_pair(f"cells{number}", 31 + number)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    for checkpoint in tmp_path.rglob("*.pt"):  # 74 MB each
        checkpoint.unlink()


def test_writes_weights_that_load(run_command, folder):
    done = run_command(*COMMAND)
    assert done.code == 0, done.err
    assert "validation_iou" in done.out
    assert done.out.endswith("out.safetensors: trained\n")
    sam = load_sam("out.safetensors", SMALL, 64)
    assert all(bool(torch.isfinite(values).all()) for values in sam.state_dict().values())
    metadata = read_metadata("out.safetensors")
    assert metadata.pop("trained_with").startswith("cellseg1-rt ")
    assert metadata == {
        "backbone": "small",
        "image_size": "64",
        "seed": "3",
        "started_from": "random weights",
        "steps": "3",
        "training_images": "2",
    }
    assert sorted(path.name for path in Path("out.work").iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
    ]


def test_goes_on_from_weights_that_are_there(run_command, folder):
    assert run_command(*COMMAND, "--work", "first").code == 0
    first = Path("out.safetensors").read_bytes()
    Path("start.safetensors").write_bytes(first)
    replaced("learning_rate = 1e-3", "learning_rate = 0.0")
    done = run_command(*COMMAND, "--work", "second", "--start-from", "start.safetensors")
    assert done.code == 0, done.err
    metadata = read_metadata("out.safetensors")
    assert metadata["started_from"] == f"sha256 {hashlib.sha256(first).hexdigest()}"
    start, kept = read_tensors("start.safetensors"), read_tensors("out.safetensors")
    calibrated = (  # anew
        "mask_decoder.output_hypernetworks_mlps.0.layers.2.",
        "mask_decoder.iou_prediction_head.layers.2.",
    )
    assert start.keys() == kept.keys()
    for name, values in start.items():
        if not name.startswith(calibrated):
            torch.testing.assert_close(kept[name], values)


def test_resume_or_refuse(run_command, folder):
    assert run_command(*COMMAND, "--work", "kept").code == 0
    first = Path("out.safetensors").read_bytes()
    Path("out.safetensors").unlink()
    refused = run_command(*COMMAND, "--work", "kept")
    assert refused.code == 2
    assert refused.err == (
        "error: kept: holds the checkpoint of another run. "
        "Fix: pass --resume to go on from it, or choose another --work folder\n"
    )
    assert not Path("out.safetensors").exists()
    resumed = run_command(*COMMAND, "--work", "kept", "--resume")
    assert resumed.code == 0, resumed.err
    assert Path("out.safetensors").read_bytes() == first


def test_samples_and_held_out_pictures_do_not_train(run_command, folder):
    """The weights do not move when such pictures come, or their labels change."""
    assert run_command(*COMMAND, "--work", "1").code == 0
    first = Path("out.safetensors").read_bytes()
    shipped = min((SAMPLES / "images").glob("*.png"))
    with Image.open(shipped) as picture:
        picture.save("data/images/mine.bmp")
    shutil.copy(SAMPLES / "labels" / shipped.name, "data/labels/mine.png")
    own = [pair for pair in read_pairs(Path("data")) if pair.name != "mine"]
    held_out = Path("data", "labels", f"{own[0].name}.png")
    with Image.open(held_out) as picture:
        labels = np.asarray(picture)
    Image.fromarray(np.where(labels == 2, 0, labels)).save(held_out)
    assert run_command(*COMMAND, "--work", "2").code == 0
    assert Path("out.safetensors").read_bytes() == first
    trained_on = Path("data", "labels", f"{own[1].name}.png")
    Image.fromarray(np.where(labels == 2, 0, labels)).save(trained_on)
    assert run_command(*COMMAND, "--work", "3").code == 0
    assert Path("out.safetensors").read_bytes() != first


def replaced(old: str, new: str) -> None:
    assert old in RECIPE
    Path("recipe.toml").write_text(RECIPE.replace(old, new))


@pytest.mark.parametrize(
    "change, code, message",
    [
        pytest.param(
            ("seed = 3", "sed = 3"),
            2,
            "error: pretrain recipe, top level: missing field; got seed",
            id="unknown-field",
        ),
        pytest.param(
            ("dice = 1.0", ""),
            2,
            "error: pretrain recipe, [loss]: missing field; got dice",
            id="missing-field",
        ),
        pytest.param(("seed = 3", "seed ="), 2, "train recipe cannot be read", id="not-toml"),
        pytest.param(
            ("small.toml", "vit_x"), 2, "error: vit_x: no such export recipe", id="no-backbone"
        ),
        pytest.param(
            ("held_out_images = 1", "held_out_images = 3"),
            1,
            "error: data: no pairs left to train on; expected more than the 3 that are held out",
            id="all-held-out",
        ),
    ],
)
def test_recipes_that_cannot_be_followed(
    run_command, folder, change: tuple[str, str], code: int, message: str
):
    replaced(*change)
    done = run_command(*COMMAND)
    assert done.code == code
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("--recipe", "minute"), 2, "error: minute: no such train recipe; expected one of "),
        (("--data", "nowhere"), 1, "error: nowhere: no training images"),
        (("--work", "recipe.toml"), 2, "error: recipe.toml: cannot write into this folder"),
        (("--start-from", "none.pth"), 2, "error: none.pth: no such weights file"),
        (("--start-from", "tiny"), 2, "error: "),
    ],
    ids=["recipe", "data", "work", "start-missing", "start-of-another-shape"],
)
def test_arguments_that_cannot_be_followed(
    run_command, folder, arguments: tuple[str, str], code: int, message: str
):
    done = run_command(*COMMAND, *arguments)
    assert done.code == code
    assert done.err.startswith(message)


def test_help(run_command):
    done = run_command("pretrain", "--help")
    assert done.code == 0
    for words in ("--output", "--data", "--recipe", "--work", "--resume", "--start-from"):
        assert words in done.out
