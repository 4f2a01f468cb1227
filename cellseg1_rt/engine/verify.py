"""Whether engines give on a card what the CPU gives: fused attention has been silently wrong.

May import numpy. Both sides are backends that were loaded elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.contract import Manifest
from cellseg1_rt.errors import VerificationError

__all__ = ["Agreement", "compare_backends", "require_agreement"]

_POINTS = 37
_SHARE_ROUNDED = 2.0
"""A bundle's tolerance is its own distance from float32; two that round differently add up."""


@dataclass(frozen=True)
class Agreement:
    """Largest difference of a tensor from the reference's, in the reference's standard deviations.

    Attributes
    ----------
    allowed : twice the bundle's tolerance for the graph.
    """

    graph: str
    tensor: str
    relative: float
    allowed: float


def compare_backends(
    backend: Backend, reference: Backend, manifest: Manifest, most_prompts: int
) -> list[Agreement]:
    """Run both on two made-up images, one of them padded, and compare what reaches the host.

    Parameters
    ----------
    backend : the engines.
    reference : a runtime on the CPU, at the bundle's precision.
    manifest : for its tolerances.
    most_prompts : of one call of the engines.

    Returns
    -------
    The worse of the two images for ``score`` and for ``logits``, in this order.
    """
    worst = {"prompt_decoder": 0.0, "mask_head": 0.0}
    rng = np.random.default_rng(20)
    size = manifest.image_size
    for height in (size, size // 2 + 3):
        image = np.zeros((1, size, size, 3), np.uint8)
        # Blocks of 8 px: plain noise is one grey to a network of 16-px patches.
        blocks = rng.integers(0, 256, (height // 8 + 1, size // 8, 3), np.uint8)
        image[0, :height] = blocks.repeat(8, axis=0)[:height].repeat(8, axis=1)
        points = rng.uniform(0, (size, height), (min(_POINTS, most_prompts), 2)).astype(np.float32)
        valid = np.array([[height, size]], np.int32)
        got, wanted = (_run(each, image, valid, points) for each in (backend, reference))
        for graph, a, b in zip(worst, got, wanted, strict=True):
            # Of a number and NaN, max() gives the first.
            worst[graph] = float(np.maximum(worst[graph], _relative(a, b)))
    return [
        Agreement(graph, tensor, worst[graph], _SHARE_ROUNDED * manifest.tolerances[graph])
        for graph, tensor in (("prompt_decoder", "score"), ("mask_head", "logits"))
    ]


def require_agreement(agreements: list[Agreement]) -> None:
    """Refuse engines that are not the graphs.

    Raises
    ------
    VerificationError : naming the first tensor outside its tolerance, with both figures.
    """
    for each in agreements:
        if not each.relative <= each.allowed:  # not a number is not agreement
            raise VerificationError(
                "the engine differs from the CPU",
                where=f"graph {each.graph}, tensor {each.tensor}",
                got=f"{each.relative:.2e} of the output's spread",
                expected=f"at most {each.allowed:.2e}",
                fix="export the bundle in bf16 or fp32, or build with the other --flavor",
            )


def _run(
    backend: Backend, image: NDArray[np.uint8], valid: NDArray[np.int32], points: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores and all logits of one image's points."""
    (embedding,) = backend.encode(image, valid)
    decoded = backend.decode(embedding, points)
    logits: Any = backend.head(decoded, np.arange(len(points)))
    on_host = logits if isinstance(logits, np.ndarray) else logits.copy_to_host()
    return decoded.score, on_host


def _relative(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(got - wanted).max() / wanted.std())
