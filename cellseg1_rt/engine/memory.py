"""What three engines take of a card's memory, and the largest prompt batch that fits.

Inputs and outputs follow from the contract. Activations do not: the builder decides what to fuse,
so their size at another batch is only known once it has been built. Imports the standard library
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cellseg1_rt.contract import Manifest
from cellseg1_rt.engine_files import Figures, Span

__all__ = ["Footprint", "buffer_bytes", "footprint", "largest_batch"]

_ITEM_BYTES = {"uint8": 1, "int32": 4, "int64": 8, "float32": 4}
_PRECISION_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_STEPS = 32


@dataclass(frozen=True)
class Footprint:
    """Device memory while all three engines are loaded, in bytes.

    Each engine keeps activations of its own, so they are added up. A tensor that one graph writes
    and another reads (``embedding``, ``hyper``, ``keys``) is one buffer.
    """

    weights_bytes: int
    activation_bytes: int
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.activation_bytes + self.buffer_bytes


def buffer_bytes(manifest: Manifest, profile: Mapping[str, Span]) -> dict[str, int]:
    """Bytes of every input and output of the three graphs at the profile's most, by name.

    ``survivors`` are the logits of all prompts of a call, float32 as ``logits`` are: any may
    survive, and the mask head fills them some at a time.

    Parameters
    ----------
    manifest : image size S and precision.
    profile : spans of ``B``, ``N`` and ``M``.
    """
    sizes = axis_sizes(manifest) | {axis: span.max for axis, span in profile.items()}
    tensors = {
        tensor.name: math.prod(sizes[n] if isinstance(n, str) else n for n in tensor.shape)
        * _ITEM_BYTES.get(tensor.dtype, _PRECISION_BYTES[manifest.precision])
        # The decoder's embedding [1, …] is a row of the encoder's [B, …], whose entry stays.
        for spec in reversed(manifest.graphs.values())
        for tensor in (*spec.inputs, *spec.outputs)
    }
    return tensors | {"survivors": sizes["N"] * sizes["L"] ** 2 * 4}


def axis_sizes(manifest: Manifest) -> dict[str, int]:
    """The axes of the contract that follow from the image size."""
    grid = manifest.grid
    return {"S": manifest.image_size, "g": grid, "T": grid * grid, "L": 4 * grid}


def footprint(
    manifest: Manifest, profile: Mapping[str, Span], figures: Mapping[str, Figures]
) -> Footprint:
    """Memory of the three engines together, from what the builder said of each."""
    return Footprint(
        sum(figure.weights_bytes for figure in figures.values()),
        sum(figure.activation_bytes for figure in figures.values()),
        sum(buffer_bytes(manifest, profile).values()),
    )


def largest_batch(
    total_bytes: Callable[[int], int], budget_bytes: int, too_many: int, too_many_bytes: int
) -> tuple[int, int] | None:
    """The largest prompt batch that fits, to 1/32 of the one that does not.

    Sizes grow nearly linearly with the batch, so the line between two known sizes says where to
    look next; but only a batch whose size was asked for is ever named, and the next larger one has
    been seen not to fit. Needs three builds where the line is straight.

    Parameters
    ----------
    total_bytes : size at a batch; builds engines, and does not fall as the batch grows.
    budget_bytes : what fits.
    too_many, too_many_bytes : a batch that does not fit, and its size.

    Returns
    -------
    (batch, its size), a multiple of the step; or None where not even one step fits.
    """
    step = max(1, too_many // _STEPS)
    if step >= too_many:
        return None
    low, low_bytes = step, total_bytes(step)
    if low_bytes > budget_bytes:
        return None
    high, high_bytes = too_many, too_many_bytes
    while high - low > step:
        share = (budget_bytes - low_bytes) / (high_bytes - low_bytes)
        guess = int(low + share * (high - low)) // step * step
        last = (high - 1) // step * step
        guess = min(max(guess, low + step), last)
        guess_bytes = total_bytes(guess)
        if guess_bytes <= budget_bytes:
            low, low_bytes = guess, guess_bytes
        else:
            high, high_bytes = guess, guess_bytes
    return low, low_bytes
