"""A SAM that computes in fewer bits, and what in it stays float32.

Products, their weights and what they hand on take the lower precision. Normalisations and their
sums, softmaxes, positional encodings with the tokens they are part of, the encoder's residual sum
and the score head stay float32: a point's position is an angle of hundreds of radians, squares of
channels overflow float16, and a score decides at a threshold. May import torch.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from cellseg1_rt.errors import WeightsError

__all__ = ["DTYPES", "in_precision", "normed"]

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


def normed(norm: nn.Module, values: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer norm computed in its weights' type, handed on in ``dtype``."""
    found: Tensor = norm(values.to(norm.get_parameter("weight").dtype)).to(dtype)
    return found
