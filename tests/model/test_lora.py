import os
from pathlib import Path
from typing import Any

import pytest
import torch
from drawing import draw_weights
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.model.lora import (
    LoraLinear,
    add_lora,
    check_lora,
    load_lora,
    lora_parameters,
    lora_state,
    read_lora,
    read_provenance,
    write_lora,
)
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.lora_linear import SumDropout
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.recipes import read_recipe

WIDTH, DEPTH, RANK, SIZE = 26, 3, 5, 7 * 16
SMALL = Backbone("small", WIDTH, DEPTH, 2, (1,), 3)


def drawn_lora_sam(seed: int, rank: int = RANK) -> Sam:
    return draw_weights(add_lora(build_sam(SMALL, SIZE), rank), seed).eval()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return lora_state(drawn_lora_sam(11))


def shapes_in_a_file(depth: int, width: int, rank: int) -> dict[str, tuple[int, ...]]:
    """Upstream's layout, written out from the method's description."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(2 * depth):
        shapes[f"w_a_{number:03d}"] = (rank, width)
        shapes[f"w_b_{number:03d}"] = (width, rank)
    for prefix, rows in (("sa", 256), ("cti", 128), ("cit", 128)):
        for number in range(4):
            shapes[f"{prefix}_a_{number:03d}"] = (rank, 256)
            shapes[f"{prefix}_b_{number:03d}"] = (rows, rank)
    for part in "qv":
        shapes[f"fati_{part}a"] = (rank, 256)
        shapes[f"fati_{part}b"] = (128, rank)
    return shapes


def test_file_has_upstreams_names_and_shapes(state: dict[str, Tensor]):
    whole = build_sam(SMALL, SIZE).state_dict()
    copies = {
        key: tuple(value.shape)
        for key, value in whole.items()
        if key.split(".")[0] in ("prompt_encoder", "mask_decoder") and ".transformer." not in key
    }
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in copies
    expected = shapes_in_a_file(DEPTH, WIDTH, RANK) | copies
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def shipped(name: str) -> Backbone:
    return Backbone.from_dict(read_recipe("export", name)["backbone"])


def shapes_with_copies(sam: Sam, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """What a LoRA file of rank 4 holds for a backbone, by upstream's names."""
    return shapes_in_a_file(backbone.depth, backbone.embed_dim, 4) | {
        key: tuple(value.shape)
        for key, value in sam.state_dict().items()
        if key.split(".")[0] in ("prompt_encoder", "mask_decoder") and ".transformer." not in key
    }


@pytest.mark.parametrize("name", ["tiny", "vit_b", "vit_h"])
def test_of_shipped_backbones_no_key_is_missing_or_unexpected(name: str):
    """Without storage: every layer has its tensors' shapes, and a file of those is complete."""
    backbone = shipped(name)
    with torch.device("meta"):
        sam = add_lora(build_sam(backbone, 512))
    expected = shapes_with_copies(sam, backbone)
    sites = lora_sites(backbone.depth, backbone.embed_dim)
    names = [key for site in sites for key in (site.a_key, site.b_key)]
    found = dict(zip(names, (tuple(p.shape) for p in lora_parameters(sam)), strict=True))
    assert found == {key: shape for key, shape in expected.items() if "." not in key}
    state = {key: torch.empty(shape, device="meta") for key, shape in expected.items()}
    assert check_lora(state, backbone.depth, backbone.embed_dim) == 4


def test_tinys_file_is_complete(tmp_path: Path):
    backbone = shipped("tiny")
    sam = add_lora(build_sam(backbone, 512))
    write_lora(tmp_path / "lora.pth", lora_state(sam))
    read = torch.load(tmp_path / "lora.pth", weights_only=True)
    assert {k: tuple(v.shape) for k, v in read.items()} == shapes_with_copies(sam, backbone)
    load_lora(sam, read_lora(tmp_path / "lora.pth", backbone))


def heads_apart(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def test_encoder_attention_by_the_formula(state: dict[str, Tensor]):
    """qkv = x·Wᵀ + b, q += x·Aqᵀ·Bqᵀ, v += x·Avᵀ·Bvᵀ; then attention with decomposed rel-pos."""
    sam = drawn_lora_sam(11)
    side, heads = 3, 2
    x = torch.randn(2, side, side, WIDTH)
    attention = sam.image_encoder.blocks[2].attn
    weight, bias = attention.qkv.frozen.weight, attention.qkv.frozen.bias
    with torch.no_grad():
        q, k, v = (
            x @ weight[part * WIDTH : (part + 1) * WIDTH].T
            + bias[part * WIDTH : (part + 1) * WIDTH]
            for part in range(3)
        )
        # Block 2: q is number 4, v is number 5.
        q = q + x @ state["w_a_004"].T @ state["w_b_004"].T
        v = v + x @ state["w_a_005"].T @ state["w_b_005"].T
        q, k, v = (heads_apart(t.reshape(2, side * side, WIDTH), heads) for t in (q, k, v))
        logits = q @ k.transpose(-2, -1) / 13**0.5
        cells = [(y, x) for y in range(side) for x in range(side)]
        for i, (qy, qx) in enumerate(cells):
            for j, (ky, kx) in enumerate(cells):
                bias_rows = (
                    attention.rel_pos_h[qy - ky + side - 1]
                    + attention.rel_pos_w[qx - kx + side - 1]
                )
                logits[:, :, i, j] += q[:, :, i] @ bias_rows
        out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(2, side, side, WIDTH)
        expected = out @ attention.proj.weight.T + attention.proj.bias
        torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "module, q_name, v_name",
    [
        ("layers.0.self_attn", "sa_{}_000", "sa_{}_001"),
        ("layers.1.self_attn", "sa_{}_002", "sa_{}_003"),
        ("layers.0.cross_attn_token_to_image", "cti_{}_000", "cti_{}_001"),
        ("layers.1.cross_attn_token_to_image", "cti_{}_002", "cti_{}_003"),
        ("layers.0.cross_attn_image_to_token", "cit_{}_000", "cit_{}_001"),
        ("layers.1.cross_attn_image_to_token", "cit_{}_002", "cit_{}_003"),
        ("final_attn_token_to_image", "fati_q{}", "fati_v{}"),
    ],
)
def test_decoder_attention_by_the_formula(
    state: dict[str, Tensor], module: str, q_name: str, v_name: str
):
    attention = drawn_lora_sam(11).mask_decoder.transformer.get_submodule(module)
    query, key, value = torch.randn(2, 7, 256), torch.randn(2, 11, 256), torch.randn(2, 11, 256)

    def update(x: Tensor, name: str) -> Tensor:
        return x @ state[name.format("a")].T @ state[name.format("b")].T

    def linear(x: Tensor, layer: Any) -> Tensor:
        return x @ layer.weight.T + layer.bias

    with torch.no_grad():
        q = linear(query, attention.q_proj.frozen) + update(query, q_name)
        k = linear(key, attention.k_proj)
        v = linear(value, attention.v_proj.frozen) + update(value, v_name)
        width = q.shape[-1] // 8
        q, k, v = (heads_apart(t, 8) for t in (q, k, v))
        out = (q @ k.transpose(-2, -1) / width**0.5).softmax(-1) @ v
        expected = linear(out.transpose(1, 2).flatten(2), attention.out_proj)
        torch.testing.assert_close(attention(query, key, value), expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_on_the_sum_of_all_three_thirds():
    sam = draw_weights(add_lora(build_sam(SMALL, SIZE), RANK, dropout=0.25), 13)
    qkv = sam.image_encoder.blocks[0].attn.qkv
    x = torch.randn(997, WIDTH)
    with torch.no_grad():
        whole = qkv.eval()(x)
        torch.manual_seed(7)
        dropped = qkv.train()(x)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    for third in range(3):
        share = kept[:, third * WIDTH : (third + 1) * WIDTH].float().mean()
        assert share == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.001])
def test_dropout_keeps_the_share_it_should(p: float):
    """Each element on its own: no share, and no pair of neighbours, is off by chance alone."""
    dropout = SumDropout(p).train()
    torch.manual_seed(3)
    values = torch.full((7, 100_003), 2.0, requires_grad=True)
    found = dropout(values)
    dropped = found == 0
    assert torch.equal(found[~dropped], torch.full_like(found[~dropped], 2 / (1 - p)))
    spread = (p * (1 - p) / dropped.numel()) ** 0.5
    assert float(dropped.double().mean()) == pytest.approx(p, abs=4 * spread)
    both = (dropped[:, 1:] & dropped[:, :-1]).double().mean()
    assert float(both) == pytest.approx(p * p, abs=5 * p / dropped.numel() ** 0.5)
    torch.autograd.backward(found.sum())
    assert torch.equal(values.grad, found.detach() / 2)
    assert not torch.equal(dropout(values) == 0, dropped)
    assert dropout.eval()(values) is values


def test_gradients_are_those_of_the_formula():
    """The updates are added in place, which autograd must see through."""
    layer = drawn_lora_sam(11).image_encoder.blocks[0].attn.qkv
    x, upstream = torch.randn(7, WIDTH), torch.randn(7, 3 * WIDTH)
    (layer(x) * upstream).sum().backward()
    for row in (0, 2 * WIDTH):
        update, part = layer.updates[str(row)], upstream[:, row : row + WIDTH]
        torch.testing.assert_close(update.b.grad, part.T @ (x @ update.a.T))
        torch.testing.assert_close(update.a.grad, (part @ update.b).T @ x)


def test_a_fresh_lora_changes_nothing_and_follows_the_draw():
    plain = draw_weights(build_sam(SMALL, SIZE), 5).eval()
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before = plain.image_encoder(image)
        after = add_lora(plain).image_encoder(image)
    assert torch.equal(before, after)
    parameters = lora_parameters(plain)
    assert len(parameters) == 2 * (2 * DEPTH + 14)
    for a, b in zip(parameters[::2], parameters[1::2], strict=True):
        # Kaiming-uniform with a = √5 is uniform within ±1/√inputs.
        bound = a.shape[1] ** -0.5
        assert 0.8 * bound < a.abs().max() <= bound
        assert a.shape[0] == 4
        assert not b.any()


def test_everything_else_is_frozen_and_every_part_learns():
    sam = drawn_lora_sam(17).train()
    trained = {id(parameter) for parameter in sam.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in lora_parameters(sam)}
    embedding = sam.image_encoder(torch.randn(1, 3, SIZE, SIZE))
    points = torch.tensor([[[11.0, 13.0]], [[71.0, 31.0]]]), torch.ones(2, 1)
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
    masks, score = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    (masks.square().mean() + score.square().mean()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in lora_parameters(sam))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip(tmp_path: Path, state: dict[str, Tensor], suffix: str):
    path, again = tmp_path / f"lora{suffix}", tmp_path / f"again{suffix}"
    write_lora(path, state)
    write_lora(again, state)
    assert path.read_bytes() == again.read_bytes()
    read = read_lora(path, SMALL)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)

    target = drawn_lora_sam(19)
    load_lora(target, read)
    after = lora_state(target)
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert {id(p) for p in lora_parameters(target)} == {
        id(p) for p in target.parameters() if p.requires_grad
    }


TOLD = {"training_seed": "3", "training_image_size_px": "[61, 73]"}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_provenance(tmp_path: Path, state: dict[str, Tensor], suffix: str):
    path = tmp_path / f"lora{suffix}"
    write_lora(path, state, TOLD)
    assert read_provenance(path) == TOLD
    files = {"lora.pth", "lora.json"} if suffix == ".pth" else {"lora.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == files
    read_lora(path, SMALL)


def test_upstreams_files_tell_nothing(tmp_path: Path, state: dict[str, Tensor]):
    write_lora(tmp_path / "lora.pth", state)
    assert read_provenance(tmp_path / "lora.pth") == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"lora_sha256": "17", "a": "b"}', "provenance of another LoRA file; got 17; expected "),
        ("{", "provenance cannot be read; got "),
        ("[1]", "provenance cannot be read; got "),
        ("{}", "provenance cannot be read; got 'lora_sha256'"),
    ],
    ids=["another", "cut-off", "a-list", "no-hash"],
)
def test_provenance_that_does_not_belong_is_refused(
    tmp_path: Path, state: dict[str, Tensor], text: str, message: str
):
    path = tmp_path / "lora.pth"
    write_lora(path, state)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError) as caught:
        read_provenance(path)
    assert str(caught.value).startswith(f"{tmp_path / 'lora.json'}: {message}")
    assert "Fix: remove it, or put the LoRA file" in str(caught.value)


def test_a_file_as_upstream_saves_it(tmp_path: Path, state: dict[str, Tensor]):
    """There A and B are the layers' parameters, not plain tensors."""
    parameters = {
        key: value if "." in key else torch.nn.Parameter(value) for key, value in state.items()
    }
    torch.save(parameters, tmp_path / "lora.pth")
    read = read_lora(tmp_path / "lora.pth", SMALL, rank=RANK)
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert not any(value.requires_grad for value in read.values())


def test_the_state_is_a_copy():
    sam = drawn_lora_sam(23)
    state = lora_state(sam)
    for value in state.values():
        value.zero_()
    assert all(value.any() for value in lora_state(sam).values())


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def of_vit_l(state: dict[str, Tensor]) -> dict[str, Tensor]:
    shapes = shapes_in_a_file(24, 1024, 5)
    return state | {key: torch.ones(shape) for key, shape in shapes.items()}


IOU_TOKEN = "mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    "change, rank, message",
    [
        pytest.param(
            of_vit_l,
            None,
            r"this LoRA was made for another backbone; got 24 encoder blocks of width 1024 "
            r"\(vit_l\); expected 3 encoder blocks of width 26\. Fix: choose the backbone",
            id="backbone",
        ),
        pytest.param(lambda s: s, 4, r"this LoRA has another rank; got 5; expected 4", id="rank"),
        pytest.param(
            lambda s: s | {"cti_b_002": torch.ones(128, 7)},
            None,
            r"1 of \d+ tensors have another shape: cti_b_002; got cti_b_002 \[128, 7\]; "
            r"expected \[128, 5\]",
            id="mixed ranks",
        ),
        pytest.param(
            lambda s: without(s, "w_b_005"), None, r"1 tensors are missing: w_b_005;", id="last b"
        ),
        pytest.param(
            lambda s: without(s, "fati_vb", IOU_TOKEN),
            None,
            r"2 tensors are missing: fati_vb, mask_decoder\.iou_token\.weight;",
            id="copies",
        ),
        pytest.param(
            lambda s: s | {"w_q_000": torch.ones(1)},
            None,
            r"1 tensors are unexpected: w_q_000;",
            id="unexpected",
        ),
        pytest.param(
            lambda s: s | {IOU_TOKEN: torch.ones(2, 256)},
            None,
            r"1 of \d+ tensors have another shape: mask_decoder\.iou_token\.weight;",
            id="copy's shape",
        ),
        pytest.param(
            lambda s: s | {"sa_b_003": torch.full((256, 5), float("inf"))},
            None,
            r"1 tensors hold values that are not finite: sa_b_003",
            id="infinite",
        ),
        pytest.param(
            lambda s: {"a": torch.ones(1)},
            None,
            r"no LoRA in it; got 1 tensors, w_a_000 missing; expected CellSeg1's tensors",
            id="something else",
        ),
        pytest.param(
            lambda s: s | {"w_a_000": torch.ones(3)},
            None,
            r"no LoRA in it; got \d+ tensors, w_a_000 misshapen",
            id="misshapen",
        ),
        pytest.param(
            lambda s: build_sam(SMALL, SIZE).state_dict(),
            None,
            r"this is a SAM checkpoint; expected a LoRA file\. Fix: pass it as the SAM",
            id="a SAM",
        ),
    ],
)
def test_misfits_are_named(
    tmp_path: Path, state: dict[str, Tensor], change: Any, rank: int | None, message: str
):
    path = tmp_path / "lora.pth"
    torch.save(change(state), path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_lora(path, SMALL, rank)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def test_code_in_a_file_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
):
    monkeypatch.chdir(tmp_path)
    torch.save(state | {"w_a_000": Evil()}, "lora.pth")
    with pytest.raises(
        WeightsError, match=r"lora\.pth: holds Python objects, which could run code"
    ):
        read_lora("lora.pth", SMALL)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file(tmp_path: Path, state: dict[str, Tensor], suffix: str):
    path = tmp_path / f"lora{suffix}"
    write_lora(path, state)
    path.write_bytes(path.read_bytes()[:-1009])
    with pytest.raises(WeightsError, match="cannot be read as weights; the file is damaged"):
        read_lora(path, SMALL)


def test_loading_another_rank(state: dict[str, Tensor]):
    with pytest.raises(WeightsError, match="LoRA: this LoRA has another rank; got 5; expected 3"):
        load_lora(drawn_lora_sam(29, rank=3), state)


def test_a_bad_name_for_a_file(tmp_path: Path, state: dict[str, Tensor]):
    with pytest.raises(ConfigError, match=r"lora\.bin: not a name for a LoRA file; expected"):
        write_lora(tmp_path / "lora.bin", state)


def test_misuse_is_named():
    with pytest.raises(ConfigError, match="lora rank: not a positive integer; got 0"):
        add_lora(build_sam(SMALL, SIZE), rank=0)
    with pytest.raises(ConfigError, match="this SAM already has a LoRA"):
        add_lora(drawn_lora_sam(31))
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.qkv: this SAM has no LoRA"):
        lora_state(build_sam(SMALL, SIZE))


def test_only_the_named_layers_are_wrapped():
    wrapped = [name for name, m in drawn_lora_sam(1).named_modules() if isinstance(m, LoraLinear)]
    assert len(wrapped) == DEPTH + 14
    assert all(name.endswith((".qkv", ".q_proj", ".v_proj")) for name in wrapped)
