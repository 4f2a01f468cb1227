"""Prompts one crop with a grid of points and yields the survivors' mask logits.

Rule 2 and the score filter of rule 3 of CellSeg1's inference. Imports numpy and Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.errors import VerificationError
from cellseg1_rt.geometry import Crop, input_size_of_crop, prompt_grid

__all__ = ["Survivors", "input_of_crop", "prompt_crop", "require_finite"]


@dataclass(frozen=True)
class Survivors:
    """The prompts of one batch whose score passed, in prompt order.

    Attributes
    ----------
    score : float32 [M].
    point_xy : float32 [M, 2], (x, y) in image pixels.
    logits : float32 [M, S/4, S/4], over the padded input; not yet known to be finite.
    """

    score: NDArray[np.float32]
    point_xy: NDArray[np.float32]
    logits: NDArray[np.float32]


def input_of_crop(
    rgb: NDArray[np.uint8], crop: Crop, image_size: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The model's input for a crop: uint8 [S, S, 3] padded with zeros, and its valid size.

    Resized by Pillow's antialiased bilinear filter, as upstream does through torchvision.
    """
    height, width = input_size_of_crop(crop, image_size)
    window = Image.fromarray(np.ascontiguousarray(rgb[crop.y0 : crop.y1, crop.x0 : crop.x1]))
    resized = window.resize((width, height), Image.Resampling.BILINEAR)
    padded = np.zeros((image_size, image_size, 3), np.uint8)
    padded[:height, :width] = np.asarray(resized)
    return padded, (height, width)


def prompt_crop(
    backend: Backend,
    embedding: Any,
    crop: Crop,
    *,
    points_per_side: int,
    score: float,
    prompt_batch: int,
) -> Iterator[Survivors]:
    """Run the grid over one crop's embedding, batch by batch.

    Parameters
    ----------
    score : keep what is above it; 0 keeps all.
    prompt_batch : most prompts in one call of the decoder.

    Raises
    ------
    VerificationError : on a score that is not finite: an overflow, never a result.
    """
    shares = prompt_grid(points_per_side)
    height, width = input_size_of_crop(crop, backend.image_size)
    in_crop = shares * (crop.width, crop.height)
    in_input = in_crop * (width / crop.width, height / crop.height)
    in_image = (in_crop + np.array([crop.x0, crop.y0])).astype(np.float32)
    for first in range(0, len(shares), prompt_batch):
        batch = slice(first, first + prompt_batch)
        decoded = backend.decode(embedding, in_input[batch].astype(np.float32))
        scores = decoded.score
        require_finite(scores, "prompt_decoder", "score")
        index = np.flatnonzero(scores > np.float32(score)) if score > 0 else np.arange(len(scores))
        if not len(index):
            continue
        logits = backend.head(decoded, index.astype(np.int64))
        yield Survivors(scores[index], in_image[batch][index], logits)


def require_finite(values: NDArray[np.float32], graph: str, tensor: str) -> None:
    """Raise ``VerificationError``, with how many there are, if a value is NaN or infinite."""
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise VerificationError(
            "values are not finite",
            where=f"graph {graph}, tensor {tensor}",
            got=f"{bad} of {values.size} values are NaN or infinite",
            fix="run at a higher precision, or export the bundle again and let it be verified",
        )
