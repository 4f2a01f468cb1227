from pathlib import Path

import pytest
import torch
from drawing import draw_weights

from cellseg1_rt import extras
from cellseg1_rt.backbone import Backbone
from cellseg1_rt.cli.main import main
from cellseg1_rt.model.lora import add_lora, lora_state, write_lora
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import read_metadata, read_tensors

RECIPE = """
image_size = 80
precision = "fp32"
weight_storage = "fp32"

[backbone]
name = "small"
embed_dim = 26
depth = 3
num_heads = 2
global_attn_indexes = [1]
window_size = 3
"""
SMALL = Backbone("small", 26, 3, 2, (1,), 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sam = draw_weights(build_sam(SMALL, 112), 61)
    torch.save(sam.state_dict(), "sam.pth")
    write_lora(Path("lora.pth"), lora_state(draw_weights(add_lora(sam, rank=5), 67)))
    Path("small.toml").write_text(RECIPE)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setattr("sys.argv", ["cellseg1-rt", *line.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


INPUTS = "merge --sam sam.pth --lora lora.pth"


def test_says_what_was_merged(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, f"{INPUTS} -o out/merged.safetensors --backbone small.toml") == 0
    output = folder / "out" / "merged.safetensors"
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    assert capsys.readouterr().out == (
        f"out/merged.safetensors: small at 80 px, SAM + LoRA of rank 5, 188 tensors, {size}\n"
    )
    assert read_metadata(output)["image_size"] == "80"


def test_image_size_and_no_lora(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    line = "merge --sam sam.pth -o merged.safetensors --backbone small.toml --image-size 48"
    assert run(monkeypatch, line) == 0
    assert ": small at 48 px, SAM alone, no LoRA, 188 tensors" in capsys.readouterr().out
    assert read_tensors("merged.safetensors")["image_encoder.pos_embed"].shape == (1, 3, 3, 26)


@pytest.mark.parametrize(
    "line, message",
    [
        (
            f"{INPUTS} -o m.safetensors --backbone vit_b",
            "error: sam.pth: this SAM has another backbone; got 3 encoder blocks of width 26; "
            "expected 12 encoder blocks of width 768 (vit_b).",
        ),
        (f"{INPUTS} -o m.safetensors --backbone vit_x", "error: vit_x: no such export recipe;"),
        (
            f"{INPUTS} -o m.safetensors --backbone bare.toml",
            "error: bare.toml: missing from the recipe; expected 'backbone'",
        ),
        (
            f"{INPUTS} -o m.safetensors --backbone small.toml --rank 4",
            "error: lora.pth: this LoRA has another rank; got 5; expected 4",
        ),
        (f"{INPUTS} -o m.pth --backbone small.toml", "error: m.pth: not a name for merged weights"),
        (
            f"{INPUTS} -o m.safetensors --backbone small.toml --image-size 50",
            "error: image_size: not a multiple of the patch size; got 50",
        ),
    ],
)
def test_errors_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, line: str, message: str
):
    Path("bare.toml").write_text("image_size = 80\n")
    assert run(monkeypatch, line) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(folder.glob("*.safetensors"))


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    found = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda package: None if package == "torch" else found(package)
    )
    assert run(monkeypatch, f"{INPUTS} -o merged.safetensors --backbone small.toml") == 2
    assert capsys.readouterr().err == (
        "error: merge needs the package 'torch', which is not installed. "
        "Fix: pip install 'cellseg1-rt[train]'\n"
    )
