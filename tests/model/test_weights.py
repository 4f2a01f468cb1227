import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from drawing import draw_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.model.lora import add_lora, lora_state
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weight_checks import describe_encoder, expected_shapes, fit_sam_state
from cellseg1_rt.model.weights import (
    load_sam,
    read_metadata,
    read_sam_state,
    read_tensors,
    write_safetensors,
)
from cellseg1_rt.recipes import read_recipe

SMALL = Backbone("small", 26, 3, 2, (1,), 3)
SIZE = 7 * 16


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return draw_weights(build_sam(SMALL, SIZE), 3).state_dict()


def shipped(name: str) -> Backbone:
    return Backbone.from_dict(read_recipe("export", name)["backbone"])


def meta_state(backbone: Backbone, image_size: int) -> dict[str, Tensor]:
    shapes = expected_shapes(backbone, image_size)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def save(path: Path, content: Any, **options: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_what_was_saved(tmp_path: Path, state: dict[str, Tensor], suffix: str):
    path = save(tmp_path / f"sam{suffix}", state)
    sam = load_sam(path, SMALL, SIZE)
    loaded = sam.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not sam.training
    tensors = [*sam.parameters(), *sam.buffers()]
    assert {(t.device.type, t.dtype) for t in tensors} == {("cpu", torch.float32)}
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}], ids=["archive", "before 1.6"]
)
def test_half_precision_is_widened(tmp_path: Path, state: dict[str, Tensor], options: dict):
    half = {key: torch.nn.Parameter(value.half()) for key, value in state.items()}
    loaded = read_tensors(save(tmp_path / "half.pth", half, **options))
    assert all(torch.equal(loaded[key], half[key].float()) for key in state)
    assert not any(value.requires_grad for value in loaded.values())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_training_on_mapped_weights_leaves_the_file(
    tmp_path: Path, state: dict[str, Tensor], suffix: str
):
    path = save(tmp_path / f"sam{suffix}", state)
    before = path.read_bytes()
    sam = load_sam(path, SMALL, SIZE)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter += 1
    assert path.read_bytes() == before


def test_positions_are_resized(tmp_path: Path, state: dict[str, Tensor]):
    path = save(tmp_path / "sam.pth", state)
    small = read_sam_state(path, SMALL, 80)
    assert {key: tuple(value.shape) for key, value in small.items()} == expected_shapes(SMALL, 80)
    sam = load_sam(path, SMALL, 80)
    with torch.no_grad():
        assert sam.image_encoder(torch.zeros(1, 3, 80, 80)).shape == (1, 256, 5, 5)


@pytest.mark.parametrize(
    "name, parameters", [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)]
)
def test_official_encoders_have_metas_parameter_counts(name: str, parameters: int):
    shapes = expected_shapes(shipped(name), 1024)
    del shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters


def test_vit_h_is_brought_from_1024_to_512():
    backbone = shipped("vit_h")
    fitted = fit_sam_state(meta_state(backbone, 1024), backbone, 512, where="file")
    assert {k: tuple(v.shape) for k, v in fitted.items()} == expected_shapes(backbone, 512)


def test_another_backbone_is_named():
    with pytest.raises(WeightsError) as caught:
        fit_sam_state(meta_state(shipped("vit_l"), 1024), shipped("vit_b"), 512, where="sam.pth")
    assert str(caught.value) == (
        "sam.pth: this SAM has another backbone; got 24 encoder blocks of width 1024 (vit_l); "
        "expected 12 encoder blocks of width 768 (vit_b). "
        "Fix: choose the backbone of the file, or the file of the backbone"
    )


def test_an_encoder_of_no_recipe_is_described():
    assert describe_encoder(5, 37) == "5 encoder blocks of width 37"


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


NECK = "image_encoder.neck.0.weight"
GLOBAL_TABLE = "image_encoder.blocks.1.attn.rel_pos_h"


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param(
            lambda s: without(s, NECK),
            r"1 tensors are missing: image_encoder\.neck\.0\.weight; got \d+ tensors",
            id="one missing",
        ),
        pytest.param(
            lambda s: without(s, *[key for key in s if key.startswith("mask_decoder.")]),
            r"120 tensors are missing: mask_decoder\.\S+, \S+, \S+ and 117 more;",
            id="many missing",
        ),
        pytest.param(
            lambda s: s | {"module.extra": torch.zeros(1)},
            r"1 tensors are unexpected: module\.extra; got",
            id="unexpected",
        ),
        pytest.param(
            lambda s: s | {NECK: torch.zeros(256, 26, 3, 3)},
            r"1 of \d+ tensors have another shape: image_encoder\.neck\.0\.weight; "
            r"got image_encoder\.neck\.0\.weight \[256, 26, 3, 3\]; expected \[256, 26, 1, 1\]",
            id="shape",
        ),
        pytest.param(
            # Window tables have 5 rows. Resized into a global one it would load without a word.
            lambda s: s | {GLOBAL_TABLE: torch.zeros(5, 13)},
            r"1 of \d+ tensors have another shape: \S+rel_pos_h; got \S+ \[5, 13\]; "
            r"expected \[13, 13\]",
            id="windowed block for a global one",
        ),
        pytest.param(
            lambda s: s | {"image_encoder.pos_embed": torch.zeros(1, 7, 5, 26)},
            r"pos_embed is not a square grid; got \[1, 7, 5, 26\]; expected \[1, grid, grid, 26\]",
            id="oblong positions",
        ),
        pytest.param(
            lambda s: s | {NECK: torch.full((256, 26, 1, 1), float("nan"))},
            r"1 tensors hold values that are not finite: image_encoder\.neck\.0\.weight",
            id="nan",
        ),
        pytest.param(
            lambda s: {},
            r"tensors are missing: image_encoder\.pos_embed, ",
            id="empty",
        ),
    ],
)
def test_misfits_are_named(tmp_path: Path, state: dict[str, Tensor], change: Any, message: str):
    path = save(tmp_path / "sam.pth", change(state))
    with pytest.raises(WeightsError, match=message) as caught:
        load_sam(path, SMALL, SIZE)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_lora_in_place_of_a_sam_is_recognised(tmp_path: Path):
    path = save(tmp_path / "lora.pth", lora_state(add_lora(build_sam(SMALL, SIZE))))
    with pytest.raises(WeightsError, match="this is a LoRA file; expected a SAM checkpoint"):
        load_sam(path, SMALL, SIZE)


def test_wrong_image_size(tmp_path: Path, state: dict[str, Tensor]):
    with pytest.raises(ConfigError, match="image_size: not a multiple of the patch size; got 100"):
        load_sam(save(tmp_path / "sam.pth", state), SMALL, 100)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def corrupt_index(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    start = content.find(b"data.pkl") + 200
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    return path


TENSORS = {"a": torch.arange(997.0)}
DAMAGED = "cannot be read as weights; the file is damaged or of another kind; got "
CODE = (
    "holds Python objects, which could run code, and was not loaded; expected nothing but tensors"
)
OLD = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize(
    "name, write, message",
    [
        ("none.pth", lambda p: p, "no such weights file; expected a .pth or .safetensors file"),
        ("a.pth", lambda p: p.write_bytes(b""), DAMAGED + "EOF"),
        ("a.pth", lambda p: p.write_bytes(b"<html>404</html>"), DAMAGED + "bytes that PyTorch"),
        ("a.pth", lambda p: p.write_bytes(bytes(range(256)) * 7), DAMAGED + "bytes that PyTorch"),
        ("a.pth", lambda p: cut(save(p, TENSORS)), DAMAGED + "an archive that ends too early"),
        ("a.pth", lambda p: cut(save(p, TENSORS, **OLD)), DAMAGED + "unexpected EOF"),
        ("a.pth", lambda p: corrupt_index(save(p, TENSORS)), DAMAGED),
        ("a.pth", lambda p: save(p, {"a": Evil()}), CODE),
        ("a.pth", lambda p: save(p, {"a": Evil()}, **OLD), CODE),
        ("a.pth", lambda p: p.write_bytes(pickle.dumps(Evil(), 2)), CODE),
        ("a.pth", lambda p: p.write_bytes(pickle.dumps(Evil(), 5)), DAMAGED + "bytes that PyTorch"),
        ("a.pth", lambda p: save(p, torch.nn.Linear(2, 3)), CODE),
        ("a.pth", lambda p: save(p, [1, 2]), "not a table of named tensors; got a list"),
        (
            "a.pth",
            lambda p: save(p, {"model": TENSORS}),
            "got 1 entries that are no tensors: model",
        ),
        ("a.pth", lambda p: save(p, {7: torch.zeros(2)}), "got keys that are not text"),
        ("a.safetensors", lambda p: p.write_bytes(b""), DAMAGED),
        ("a.safetensors", lambda p: cut(save(p, TENSORS)), DAMAGED),
        ("a.safetensors", lambda p: save(p.with_suffix(".pth"), TENSORS).rename(p), DAMAGED),
    ],
)
def test_damaged_and_foreign_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any, message: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    write(path)
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert f"{path}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was-run").exists()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "a.pth", TENSORS)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        WeightsError, match=r"a\.pth: cannot be read as weights; .*Permission denied"
    ):
        read_tensors(path)


def test_written_file_is_what_the_library_reads(tmp_path: Path, state: dict[str, Tensor]):
    path = tmp_path / "w.safetensors"
    turned = {"turned": torch.arange(35.0).reshape(5, 7).T, "scalar": torch.tensor(3.0)}
    write_safetensors(path, state | turned, {"b": "2", "ä": "√"})
    loaded = load_file(path)
    assert loaded.keys() == (state | turned).keys()
    assert all(torch.equal(loaded[key], value) for key, value in (state | turned).items())
    assert read_metadata(path) == {"b": "2", "ä": "√"}


def test_equal_content_gives_equal_bytes(tmp_path: Path):
    tensors = {"b": torch.arange(7.0), "a": torch.arange(3.0)}
    metadata = {f"key{index}": str(index) for index in range(13)}
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_safetensors(one, tensors, metadata)
    write_safetensors(other, dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert one.read_bytes() == other.read_bytes()
    header_bytes = int.from_bytes(one.read_bytes()[:8], "little")
    assert header_bytes % 8 == 0
    header = json.loads(one.read_bytes()[8 : 8 + header_bytes])
    assert list(header["__metadata__"]) == sorted(metadata)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_storage(tmp_path: Path, dtype: torch.dtype):
    path = tmp_path / "w.safetensors"
    values = torch.randn(11, 3)
    write_safetensors(path, {"a": values}, {}, dtype)
    assert load_file(path)["a"].dtype == dtype
    assert torch.equal(read_tensors(path)["a"], values.to(dtype).float())


def test_a_value_too_large_for_fp16_leaves_nothing(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(
        WeightsError, match=r"w\.safetensors: big: values do not fit .* torch\.float16"
    ):
        write_safetensors(path, {"big": torch.tensor([7e4])}, {}, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_other_files(tmp_path: Path):
    assert read_metadata(save(tmp_path / "a.pth", TENSORS)) == {}
    assert read_metadata(save(tmp_path / "a.safetensors", TENSORS)) == {}
    with pytest.raises(WeightsError, match=r"none\.safetensors: cannot be read as weights"):
        read_metadata(tmp_path / "none.safetensors")
