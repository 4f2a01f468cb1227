"""FLOPs by formula are those that PyTorch counts while modules run, and those of the graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from math import prod
from pathlib import Path

import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.benchmarking import counts
from cellseg1_rt.benchmarking.products import bytes_of, flop_of
from cellseg1_rt.export.graphs import graph_modules
from cellseg1_rt.model.pairs import EncoderPairs
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.recipes import read_recipe

PADDED = Backbone("padded", 48, 3, 3, (1,), 5)
LARGE_WINDOWS = Backbone("large-windows", 24, 2, 3, (1,), 14)


def packaged(name: str) -> Backbone:
    return Backbone.from_dict(read_recipe("export", name)["backbone"])


ENCODERS = {
    "grid-7-windows-5": (PADDED, 112),
    "windows-larger-than-the-grid": (LARGE_WINDOWS, 80),
    "tiny": (packaged("tiny"), 512),
    "vit_b": (packaged("vit_b"), 512),
    "vit_h": (packaged("vit_h"), 512),
}
DECODERS = {"one-token": (16, 1), "grid-7": (112, 13), "grid-32": (512, 3)}


def counted(run: Callable[[], object]) -> int:
    """FLOPs of what runs; on the meta device nothing is computed."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def without_weights(backbone: Backbone, image_px: int):
    with torch.device("meta"):
        return build_sam(backbone, image_px).requires_grad_(False)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str):
    backbone, image_px = ENCODERS[name]
    sam = without_weights(backbone, image_px)
    pixels = torch.zeros(1, 3, image_px, image_px, device="meta")
    plain = flop_of(counts.encoder_plain(backbone, image_px))
    assert plain == counted(lambda: sam.image_encoder(pixels))
    rewritten = flop_of(counts.encoder(backbone, image_px))
    assert rewritten == counted(lambda: graph_modules(sam)["encoder"].embed(pixels))


@pytest.mark.parametrize("name", ["grid-7-windows-5", "windows-larger-than-the-grid", "tiny"])
def test_encoders_that_take_a_loras_pairs(name: str):
    backbone, image_px = ENCODERS[name]
    sam = without_weights(backbone, image_px)
    pixels = torch.zeros(1, 3, image_px, image_px, device="meta")
    places, width, rank = 2 * backbone.depth, backbone.embed_dim, 5
    shapes = (places, rank, width), (places, width, rank)
    pairs = EncoderPairs(*(torch.zeros(shape, device="meta") for shape in shapes))
    found = counted(lambda: graph_modules(sam, pairs)["encoder"].embed(pixels))
    assert flop_of(counts.encoder(backbone, image_px, rank)) == found


@pytest.mark.parametrize(
    "name, gflop, more, percent",
    [
        ("tiny", 16.1, 0.13, 0.78),
        ("vit_b", 207.5, 0.60, 0.29),
        ("vit_l", 684.7, 1.61, 0.24),
        ("vit_h", 1384.9, 2.68, 0.19),
    ],
)
def test_a_loras_pairs_cost_next_to_nothing(name: str, gflop: float, more: float, percent: float):
    """The encoder's figures in docs/engines.md, at rank 4 and 512 px."""
    merged, with_pairs = (flop_of(counts.encoder(packaged(name), 512, rank)) for rank in (None, 4))
    assert merged / 1e9 == pytest.approx(gflop, abs=0.05)
    assert (with_pairs - merged) / 1e9 == pytest.approx(more, abs=0.005)
    assert 100 * (with_pairs / merged - 1) == pytest.approx(percent, abs=0.005)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_and_heads(name: str):
    image_px, prompts = DECODERS[name]
    sam, grid = build_sam(PADDED, image_px).requires_grad_(False), image_px // 16
    embedding = torch.zeros(1, 256, grid, grid)
    points = torch.zeros(prompts, 2)

    def plain() -> object:
        labels = torch.ones(prompts, 1)
        sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        return sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )

    products = counts.decoder_plain(image_px, prompts) + counts.head_plain(image_px, prompts)
    assert flop_of(products, constant=True) == counted(plain)

    modules = graph_modules(sam)
    found = counted(lambda: modules["prompt_decoder"](embedding, points))
    assert flop_of(counts.decoder(image_px, prompts), constant=True) == found

    keys = torch.zeros(prompts, grid * grid, 256)
    hyper, index = torch.zeros(prompts, 32), torch.zeros(5, dtype=torch.int64)
    found = counted(lambda: modules["mask_head"](keys, hyper, index))
    assert flop_of(counts.head(image_px, 5)) == found


SHAPES = {
    "encoder": {"image": (2, 512, 512, 3), "size": (2, 2)},
    "prompt_decoder": {"embedding": (1, 256, 32, 32), "points": (13, 2)},
    "mask_head": {"keys": (13, 1024, 256), "hyper": (13, 32), "index": (7,)},
}
EXPECTED = {
    "encoder": 2 * flop_of(counts.encoder(packaged("tiny"), 512)),
    "prompt_decoder": flop_of(counts.decoder(512, 13)),
    "mask_head": flop_of(counts.head(512, 7)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_packaged_graphs(name: str, tiny_folder: Path):
    """Products of the ONNX files that depend on an input, with shapes as onnx infers them."""
    model = onnx.load(tiny_folder / f"{name}.onnx", load_external_data=False)
    for value in model.graph.input:
        sides = zip(value.type.tensor_type.shape.dim, SHAPES[name][value.name], strict=True)
        for dimension, size in sides:
            dimension.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert sum(flop_of_nodes(inferred)) == EXPECTED[name]


def flop_of_nodes(model: onnx.ModelProto) -> Iterator[int]:
    graph = model.graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in chain(graph.input, graph.value_info, graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    depends = {value.name for value in graph.input}
    for node in graph.node:
        if not depends & set(node.input):
            continue
        depends |= set(node.output)
        if node.op_type not in ("MatMul", "Gemm", "Conv", "Einsum", "ConvTranspose"):
            continue
        left, right = (shapes[name] for name in node.input[:2])
        result = prod(shapes[node.output[0]])
        assert result > 0, f"no shape inferred for {node.output[0]}"
        if node.op_type == "Conv":
            yield 2 * result * prod(right[1:])
        elif node.op_type == "Gemm":
            yield 2 * result * (left[0] if attribute(node, "transA") else left[1])
        elif node.op_type == "MatMul":
            yield 2 * result * left[-1]
        elif node.op_type == "Einsum":
            yield 2 * prod(sides_by_letter(node, left, right).values())
        else:
            raise AssertionError(f"no rule for {node.op_type}")


def sides_by_letter(node: onnx.NodeProto, *shapes: list[int]) -> dict[str, int]:
    """The sides an Einsum runs over: every letter once, as no letter is in one operand only."""
    (equation,) = (a.s.decode() for a in node.attribute if a.name == "equation")
    operands = equation.replace(" ", "").split("->")[0].split(",")
    return {
        letter: side
        for letters, shape in zip(operands, shapes, strict=True)
        for letter, side in zip(letters, shape, strict=True)
    }


def attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)


def test_the_packaged_encoder_is_one_for_cpus():
    assert flop_of(counts.encoder_plain(packaged("tiny"), 512)) == pytest.approx(13.56e9, rel=1e-3)


def test_prompts_cost_what_the_design_says():
    """0.92 GFLOP a prompt with one mask, plain; a quarter of that rewritten, 0.2 for a survivor."""
    many = 1024
    plain = flop_of(counts.decoder_plain(512, many) + counts.head_plain(512, many)) / many
    assert plain == pytest.approx(0.92e9, rel=0.03)
    assert flop_of(counts.decoder(512, many)) / many == pytest.approx(0.22e9, rel=0.03)
    assert flop_of(counts.head(512, many)) / many == pytest.approx(0.20e9, rel=0.03)


def test_bytes_are_operands_and_results():
    """The mask head of 3 survivors at 48 px by hand: 9 positions, 36, then 144 of a mask."""
    first = 3 * 9 * 256 + 256 * 256 + 3 * 9 * 256
    second = 3 * 36 * 64 + 64 * 128 + 3 * 36 * 128
    masks = 3 * (32 + 32 * 144 + 144)
    assert bytes_of(counts.head(48, 3), 4) == 4 * (first + second + masks)
    assert bytes_of(counts.head(48, 3), 2) == 2 * (first + second + masks)


def test_tables_of_positions_are_no_work_of_a_call():
    constant = [p for p in counts.decoder(112, 5) if p.constant]
    assert [p.name for p in constant] == ["dense encoding", *["position table"] * 3]
    once, twice = (bytes_of(counts.decoder(112, n), 4) for n in (5, 10))
    assert once < twice < 2 * once  # weights and what prompts share count once
