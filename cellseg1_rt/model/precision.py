"""A SAM that computes in fewer bits, and what in it stays float32.

Products, their weights and what they hand on take the lower precision. Normalisations and their
sums, softmaxes, positional encodings with the tokens they are part of, the encoder's residual sum
and the score head stay float32: a point's position is an angle of tens of radians, squares of
channels overflow float16, and a score decides at a threshold. May import torch.
"""

from __future__ import annotations

import contextlib
import math

import torch
from segment_anything.modeling import PromptEncoder, Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from cellseg1_rt.errors import WeightsError

__all__ = ["DTYPES", "in_precision", "normed", "outside_autocast", "point_positions", "score_of"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What precisions are called in PyTorch."""


def in_precision(sam: Sam, precision: str) -> Sam:
    """Put a model's products in ``fp32``, ``fp16`` or ``bf16``, in place; the rest stays float32.

    The functions of ``encoding.py`` and ``decoding.py`` follow; segment-anything's own forward
    passes would not know where to widen.

    Raises
    ------
    WeightsError : if a weight is beyond the precision's range.
    """
    decoder, encoder = sam.mask_decoder, sam.image_encoder
    wide = [sam.prompt_encoder, decoder.iou_token, decoder.mask_tokens, decoder.iou_prediction_head]
    wide += [part for part in sam.modules() if isinstance(part, (nn.LayerNorm, LayerNorm2d))]
    kept = {id(parameter) for part in wide for parameter in part.parameters()}
    kept.add(id(encoder.pos_embed))
    for name, parameter in sam.named_parameters():
        if id(parameter) in kept:
            continue
        rounded = parameter.data.to(DTYPES[precision])
        if not rounded.isfinite().all():
            raise WeightsError(
                "a weight is beyond the range of the precision",
                where=name,
                got=f"{parameter.abs().max().item():.3g}",
                expected=f"at most {torch.finfo(rounded.dtype).max:.0f} for {precision}",
                fix="export with --precision bf16 or fp32",
            )
        parameter.data = rounded
    return sam


def outside_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where positions are computed: training's autocast would round their angles."""
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()  # an exported graph is traced without autocast
    return torch.autocast(device.type, enabled=False)


def normed(norm: nn.Module, values: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer norm computed in its weights' type, handed on in ``dtype``."""
    found: Tensor = norm(values.to(norm.get_parameter("weight").dtype)).to(dtype)
    return found


# TensorRT-RTX has no float32 matrix product on Turing, whatever it is called in the graph. A model
# in a lower precision is for such cards too, so the products of it that stay float32 are written as
# sums and as convolutions; one in float32 is left as it is.


def point_positions(prompt: PromptEncoder, points_xy: Tensor, dtype: torch.dtype) -> Tensor:
    """SAM's positional encoding, float32 [P, 1, 256], of points [P, 2] in pixels.

    ``dtype`` is that of the model's products.
    """
    if dtype == torch.float32:
        encoded: Tensor = prompt.pe_layer.forward_with_coords(
            points_xy[:, None], prompt.input_image_size
        )
        return encoded
    height, width = prompt.input_image_size
    of_x, of_y = prompt.pe_layer.positional_encoding_gaussian_matrix
    x, y = (points_xy / points_xy.new_tensor([width, height]) * 2 - 1).unsqueeze(2).unbind(1)
    angles = (2 * math.pi) * (x * of_x + y * of_y)[:, None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def score_of(head: nn.Module, token: Tensor, dtype: torch.dtype) -> Tensor:
    """What the score head says, float32 [P, 4], of the score's token, float32 [P, 256].

    ``dtype`` is that of the model's products.
    """
    if dtype == torch.float32:
        said: Tensor = head(token)
        return said
    *hidden, last = head.get_submodule("layers").children()
    values = token[:, :, None, None]
    for layer in hidden:
        values = _convolved(layer, values).relu()
    return _convolved(last, values).flatten(1)


def _convolved(layer: nn.Module, values: Tensor) -> Tensor:
    """A linear layer as a 1×1 convolution of [P, C, 1, 1]."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return functional.conv2d(values, weight[:, :, None, None], bias)
