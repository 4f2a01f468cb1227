"""How much memory training takes, and how many tiles fit a card. May import torch."""

from __future__ import annotations

import sys

import torch

from cellseg1_rt.backbone import PATCH_SIZE, Backbone

__all__ = ["encoder_bytes", "memory_mb", "tiles_that_fit"]

RESERVED_BYTES = 1_000_000_000
"""For a group of points in the decoder, the runtime's workspaces and the LoRA's optimiser."""

USED_SHARE = 0.9
"""Of the memory that is free once the model is on the card; the rest is for fragments."""


def encoder_bytes(
    backbone: Backbone, image_size: int, precision: str, *, checkpointing: bool
) -> int:
    """Bytes that the encoder keeps of one tile for its gradients.

    With T tokens of C channels, h heads, and windows padded to T' ≥ T tokens of which an attention
    sees a square of side s, a block keeps of a token the inputs of both norms, in float32, and
    those of the qkv product and the MLP's bend: (2 + 1 + 4)·C; of a padded token q, k, v and the
    output, each widened by 2·s a head, and a byte for each of dropout's 3·C. The neck keeps 5·256 a
    token. With checkpointing only each block's input is kept, and one block in full.
    """
    side = image_size // PATCH_SIZE
    wide = 4 if precision == "fp32" else 2
    total, largest = 5 * 256 * side**2 * wide, 0
    for block in range(backbone.depth):
        is_global = block in backbone.global_attn_indexes
        span = side if is_global else backbone.window_size
        padded = side if is_global else -(-side // span) * span
        width = backbone.embed_dim
        plain = side**2 * width * (2 * 4 + 5 * wide)
        of_heads = 4 * (width + 2 * span * backbone.num_heads)
        attention = padded**2 * (of_heads * wide + 3 * width)
        total += plain + attention
        largest = max(largest, plain + attention)
    if checkpointing:
        return backbone.depth * side**2 * backbone.embed_dim * 4 + largest
    return total


def tiles_that_fit(free_bytes: int, bytes_per_tile: int, most: int) -> int:
    """Tiles the encoder may see at once: (0.9 · free - 1 GB) / bytes a tile, 1 to ``most``."""
    room = int(USED_SHARE * free_bytes) - RESERVED_BYTES
    return max(1, min(most, room // bytes_per_tile))


def memory_mb(device: torch.device) -> float:
    """The most memory used so far, in MB: of the card, or of this process; NaN if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
