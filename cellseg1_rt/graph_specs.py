"""The graphs of a bundle: their names, inputs and outputs. Imports the standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["GRAPHS", "PAIRS", "GraphSpec", "TensorSpec", "swappable_graphs"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. Letters in ``shape`` are dynamic (B, N, M) or follow the image size.

    S is the image size, g = S/16 the grid, T = g·g its positions, L = 4g the logits' side.
    """

    name: str
    dtype: Literal["uint8", "int32", "int64", "float32", "precision"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph of the bundle, by its inputs and outputs in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def file_name(self) -> str:
        """The graph's file inside the bundle."""
        return f"{self.name}.onnx"


GRAPHS: dict[str, GraphSpec] = {
    spec.name: spec
    for spec in (
        GraphSpec(
            "encoder",
            (
                TensorSpec("image", "uint8", ("B", "S", "S", 3)),
                TensorSpec("size", "int32", ("B", 2)),
            ),
            (TensorSpec("embedding", "precision", ("B", 256, "g", "g")),),
        ),
        GraphSpec(
            "prompt_decoder",
            (
                TensorSpec("embedding", "precision", (1, 256, "g", "g")),
                TensorSpec("points", "float32", ("N", 2)),
            ),
            (
                TensorSpec("score", "float32", ("N",)),
                TensorSpec("hyper", "precision", ("N", 32)),
                TensorSpec("keys", "precision", ("N", "T", 256)),
            ),
        ),
        GraphSpec(
            "mask_head",
            (
                TensorSpec("keys", "precision", ("N", "T", 256)),
                TensorSpec("hyper", "precision", ("N", 32)),
                TensorSpec("index", "int64", ("M",)),
            ),
            (TensorSpec("logits", "float32", ("M", "L", "L")),),
        ),
    )
}

PAIRS = ("lora_a", "lora_b")
"""What the encoder of a swappable bundle takes besides: A and B of every block's q and v."""


def swappable_graphs(depth: int, width: int, rank: int) -> dict[str, GraphSpec]:
    """The graphs of a bundle whose encoder takes the LoRA's pairs, q of block i at 2i, v at 2i + 1.

    They are float32 at any precision: small, and numpy has no bfloat16.

    Parameters
    ----------
    depth, width : blocks of the encoder and their channels.
    rank : of the LoRA.
    """
    shapes = (2 * depth, rank, width), (2 * depth, width, rank)
    pairs = (TensorSpec(name, "float32", form) for name, form in zip(PAIRS, shapes, strict=True))
    encoder = GRAPHS["encoder"]
    return GRAPHS | {"encoder": replace(encoder, inputs=(*encoder.inputs, *pairs))}
