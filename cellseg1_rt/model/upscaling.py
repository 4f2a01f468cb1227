"""SAM's mask head: mask logits of the prompts that are asked for. May import torch."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

__all__ = ["upscale_masks"]


def upscale_masks(sam: Sam, keys: Tensor, hyper: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits [M, 4h, 4w] of M prompts, from their ``keys`` [M, h·w, 256] and ``hyper``.

    A 2×2 transposed convolution of stride 2 is a product at each position; channels stay last
    through both, and pixels are put in their places once, at the end. Nothing stands between a
    product and its GELU, so that runtimes make one pass of both.
    """
    first, norm, _, second, _ = sam.mask_decoder.output_upscaling
    grown = _pixels_of(_product_of(first, keys))
    grown = functional.layer_norm(
        grown.to(norm.weight.dtype), norm.weight.shape, norm.weight, norm.bias, norm.eps
    )
    grown = functional.gelu(grown.to(second.weight.dtype))
    grown = _pixels_of(functional.gelu(_product_of(second, grown)))
    logits = grown @ hyper.to(grown.dtype)[:, :, None]
    height, width = size
    placed: Tensor = logits.reshape(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return placed.reshape(-1, 4 * height, 4 * width)


def _product_of(convolution: torch.nn.ConvTranspose2d, values: Tensor) -> Tensor:
    """[M, T, c] to [M, T, 4·k]: a 2×2 transposed convolution of stride 2 on channels last."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    grown: Tensor = functional.linear(values, weight, convolution.get_parameter("bias").repeat(4))
    return grown


def _pixels_of(grown: Tensor) -> Tensor:
    """[M, T, 4·k] to [M, 4·T, k]: the 2×2 pixels of a position one after the other."""
    apart: Tensor = grown.unflatten(2, (4, -1))
    return apart.flatten(1, 2)
