import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from drawing import draw_weights
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.export.merge import merge_files, merge_lora
from cellseg1_rt.model.lora import add_lora, lora_state, write_lora
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weight_checks import expected_shapes
from cellseg1_rt.model.weights import load_sam, read_metadata, read_tensors
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.version import __version__

SMALL = Backbone("small", 26, 3, 2, (1,), 3)
SIZE = 7 * 16


def shipped(name: str) -> Backbone:
    return Backbone.from_dict(read_recipe("export", name)["backbone"])


def drawn_lora_sam(backbone: Backbone, image_size: int, seed: int) -> Sam:
    return draw_weights(add_lora(build_sam(backbone, image_size)), seed).eval()


def frozen_state(sam: Sam) -> dict[str, Tensor]:
    """The weights beneath the LoRA, by SAM's own names."""
    return {
        key.replace(".frozen.", "."): value
        for key, value in sam.state_dict().items()
        if ".updates." not in key
    }


def merged_sam(sam: Sam, backbone: Backbone, image_size: int) -> Sam:
    merged = build_sam(backbone, image_size)
    merged.load_state_dict(merge_lora(frozen_state(sam), lora_state(sam), backbone))
    return merged


def decode(sam: Sam, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.ones(points.shape[:2])
    sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    masks, score = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks, score


def relative_difference(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).abs().max() / reference.std())


@pytest.mark.parametrize("name", ["tiny", pytest.param("vit_b", marks=pytest.mark.slow)])
@torch.no_grad()
def test_merged_weights_compute_what_the_lora_module_computes(name: str):
    backbone = shipped(name)
    lora = drawn_lora_sam(backbone, 512, 37)
    merged = merged_sam(lora, backbone, 512)
    image = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(41))
    reference = lora.image_encoder(image)
    assert relative_difference(merged.image_encoder(image), reference) <= 1e-5

    # Differences are in units of the spread of all scores: a few would not tell it.
    points = torch.rand(31, 1, 2, generator=torch.Generator().manual_seed(47)) * 511
    for found, expected in zip(
        decode(merged, reference, points), decode(lora, reference, points), strict=True
    ):
        assert relative_difference(found, expected) <= 1e-5

    # The bound above says nothing unless the LoRA matters.
    plain = build_sam(backbone, 512)
    plain.load_state_dict(frozen_state(lora))
    assert relative_difference(plain.image_encoder(image), reference) > 0.1


@torch.no_grad()
def test_vit_b_merges_the_same_on_a_small_image():
    backbone = shipped("vit_b")
    # 15 patches a side, so that windows of 14 are padded as they are at 512 px.
    lora = drawn_lora_sam(backbone, 240, 43)
    image = torch.randn(1, 3, 240, 240, generator=torch.Generator().manual_seed(47))
    merged = merged_sam(lora, backbone, 240)
    assert relative_difference(merged.image_encoder(image), lora.image_encoder(image)) <= 1e-5


@pytest.fixture(scope="module")
def lora_sam() -> Sam:
    return drawn_lora_sam(SMALL, SIZE, 53)


def test_only_the_named_rows_change(lora_sam: Sam):
    state, lora = frozen_state(lora_sam), lora_state(lora_sam)
    # Own values for the copies, to see that they replace SAM's.
    lora |= {key: value + 1 for key, value in lora.items() if "." in key}
    before = {key: value.clone() for key, value in (state | lora).items()}
    merged = merge_lora(state, lora, SMALL)

    assert list(merged) == list(state)
    products = {
        "image_encoder.blocks.2.attn.qkv": ("w_{}_004", "w_{}_005"),
        "mask_decoder.transformer.layers.1.self_attn.v_proj": ("sa_{}_003",),
    }
    for module, names in products.items():
        key = f"{module}.weight"
        parts = [lora[n.format("b")].double() @ lora[n.format("a")].double() for n in names]
        if len(parts) == 2:
            parts.insert(1, torch.zeros(26, 26))
        assert torch.equal(merged[key], (state[key].double() + torch.cat(parts)).float())
    changed = {key for key in state if not torch.equal(merged[key], state[key])}
    expected = {site.weight_key for site in lora_sites(3, 26)}
    copies = {key for key in lora if "." in key}
    assert changed == expected | copies
    assert all(torch.equal(merged[key], lora[key]) for key in copies)
    assert all(torch.equal((state | lora)[key], before[key]) for key in before)


def test_vit_h_in_names_and_shapes():
    """On the meta device: 641 million parameters without their bytes."""
    backbone = shipped("vit_h")
    with torch.device("meta"):
        sam = add_lora(build_sam(backbone, 512))
    lora = {key: value.to("meta") for key, value in meta_lora_state(sam).items()}
    merged = merge_lora(frozen_state(sam), lora, backbone)
    assert {k: tuple(v.shape) for k, v in merged.items()} == expected_shapes(backbone, 512)
    assert all(value.dtype == torch.float32 for value in merged.values())
    keys = {f"image_encoder.blocks.{block}.attn.qkv.weight" for block in range(32)}
    assert keys < {site.weight_key for site in lora_sites(32, 1280)}


def meta_lora_state(sam: Sam) -> dict[str, Tensor]:
    copies = {
        key: value
        for key, value in frozen_state(sam).items()
        if not key.startswith(("image_encoder.", "mask_decoder.transformer."))
    }
    for site in lora_sites(32, 1280):
        copies[site.a_key] = torch.empty(4, site.in_features, device="meta")
        copies[site.b_key] = torch.empty(site.out_features, 4, device="meta")
    return copies


@pytest.fixture
def files(tmp_path: Path, lora_sam: Sam) -> tuple[Path, Path]:
    sam_path, lora_path = tmp_path / "sam.pth", tmp_path / "lora.pth"
    torch.save(frozen_state(lora_sam), sam_path)
    write_lora(lora_path, lora_state(lora_sam))
    return sam_path, lora_path


def test_files_merge_to_another_size_with_their_provenance(
    tmp_path: Path, files: tuple[Path, Path], lora_sam: Sam
):
    output = tmp_path / "new" / "merged.safetensors"
    summary = merge_files(*files, output, SMALL, 80)
    assert (summary.rank, summary.image_size, summary.tensors) == (4, 80, 188)
    assert summary.size_bytes == output.stat().st_size
    assert {k: tuple(v.shape) for k, v in read_tensors(output).items()} == expected_shapes(
        SMALL, 80
    )
    metadata = read_metadata(output)
    assert metadata == summary.metadata
    assert Backbone.from_dict(json.loads(metadata.pop("backbone"))) == SMALL
    assert metadata == {
        "cellseg1_rt_version": __version__,
        "image_size": "80",
        "sam_sha256": sha256(files[0].read_bytes()).hexdigest(),
        "lora_sha256": sha256(files[1].read_bytes()).hexdigest(),
        "lora_rank": "4",
    }
    again = tmp_path / "again.safetensors"
    merge_files(*files, again, SMALL, 80)
    assert again.read_bytes() == output.read_bytes()


def test_merged_file_loads_as_a_sam(tmp_path: Path, files: tuple[Path, Path], lora_sam: Sam):
    output = tmp_path / "merged.safetensors"
    merge_files(*files, output, SMALL, SIZE)
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        found = load_sam(output, SMALL, SIZE).image_encoder(image)
        assert relative_difference(found, lora_sam.image_encoder(image)) <= 1e-5


def test_sam_alone(tmp_path: Path, files: tuple[Path, Path], lora_sam: Sam):
    output = tmp_path / "sam.safetensors"
    summary = merge_files(files[0], None, output, SMALL, SIZE)
    assert summary.rank is None
    assert not {"lora_sha256", "lora_rank"} & summary.metadata.keys()
    state = frozen_state(lora_sam)
    assert all(torch.equal(value, state[key]) for key, value in read_tensors(output).items())


def test_fp16_halves_the_file(tmp_path: Path, files: tuple[Path, Path]):
    wide = merge_files(*files, tmp_path / "wide.safetensors", SMALL, SIZE)
    narrow = merge_files(*files, tmp_path / "narrow.safetensors", SMALL, SIZE, torch.float16)
    assert narrow.size_bytes == pytest.approx(wide.size_bytes / 2, rel=0.01)
    read = read_tensors(wide.output)
    assert all(
        torch.equal(value, read[key].half().float())
        for key, value in read_tensors(narrow.output).items()
    )


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            {"output": "merged.pth"},
            ConfigError,
            r"merged\.pth: not a name for merged weights; expected a name ending in \.safetensors",
        ),
        ({"output": "sam.pth/merged.safetensors"}, ConfigError, "cannot write into this folder"),
        ({"lora": "none.pth"}, WeightsError, r"none\.pth: no such weights file"),
        (
            {"backbone": Backbone("other", 26, 2, 2, (1,), 3)},
            WeightsError,
            r"sam\.pth: this SAM has another backbone; got 3 encoder blocks of width 26; "
            r"expected 2 encoder blocks of width 26",
        ),
        ({"sam": "lora.pth"}, WeightsError, "this is a LoRA file"),
        ({"image_size": 100}, ConfigError, "image_size: not a multiple of the patch size"),
    ],
)
def test_errors_leave_nothing(
    tmp_path: Path,
    files: tuple[Path, Path],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
):
    values = {
        "sam": "sam.pth",
        "lora": "lora.pth",
        "output": "merged.safetensors",
        "backbone": SMALL,
        "image_size": SIZE,
    } | arguments
    sam, lora, output = (tmp_path / values.pop(name) for name in ("sam", "lora", "output"))
    with pytest.raises(error, match=message):
        merge_files(sam, lora, output, **values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.pth", "sam.pth"]


def test_a_lora_of_another_backbone(tmp_path: Path, files: tuple[Path, Path]):
    other = Backbone("other", 34, 2, 2, (1,), 3)
    write_lora(files[1], lora_state(drawn_lora_sam(other, SIZE, 59)))
    with pytest.raises(
        WeightsError,
        match=r"lora\.pth: this LoRA was made for another backbone; "
        r"got 2 encoder blocks of width 34; expected 3 encoder blocks of width 26",
    ):
        merge_files(*files, tmp_path / "merged.safetensors", SMALL, SIZE)


def test_an_input_is_not_overwritten(tmp_path: Path, files: tuple[Path, Path]):
    merge_files(files[0], None, tmp_path / "sam.safetensors", SMALL, SIZE)
    before = (tmp_path / "sam.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"sam\.safetensors: the output is also an input"):
        merge_files(
            tmp_path / "sam.safetensors", files[1], tmp_path / "sam.safetensors", SMALL, SIZE
        )
    assert (tmp_path / "sam.safetensors").read_bytes() == before
