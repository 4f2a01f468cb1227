"""Weights drawn non-zero everywhere. A fresh SAM has zeros in rel-pos, pos_embed and LoRA's B, and
a test on zeros tests nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

VECTOR_STD = 0.1
EMBEDDING_STD = 0.5
MATRIX_GAIN = 0.7


def draw_weights(module: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter and persistent buffer of ``module`` from ``seed``, in place.

    Matrices and kernels are normal with 0.7 / √inputs, so that activations keep their size through
    dozens of blocks; embeddings and ``pos_embed`` have 0.5, biases and rel-pos tables 0.1, norm
    weights 1 ± 0.1 and SAM's random positional encoding 1. A seed gives the same values whatever
    else was drawn.

    Returns
    -------
    ``module`` itself.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                mean, std = _mean_and_std(owner, name, parameter)
                parameter.copy_(
                    torch.empty(parameter.shape).normal_(mean, std, generator=generator)
                )
        for name, values in module.state_dict().items():
            if name.endswith("positional_encoding_gaussian_matrix"):
                values.normal_(generator=generator)
    return module


def _mean_and_std(owner: nn.Module, name: str, parameter: nn.Parameter) -> tuple[float, float]:
    if isinstance(owner, nn.Embedding) or name == "pos_embed":
        return 0.0, EMBEDDING_STD
    if parameter.ndim == 1 or name.startswith("rel_pos"):
        return (1.0 if name == "weight" else 0.0), VECTOR_STD
    # A transposed convolution's kernel is [in, out, h, w], and each output sees one cell of it.
    transposed = isinstance(owner, nn.ConvTranspose2d)
    inputs = parameter.shape[0] if transposed else parameter[0].numel()
    return 0.0, MATRIX_GAIN / math.sqrt(inputs)
