"""CellSeg1's LoRA on a SAM: adds it, reads and writes it in upstream's form.

Merging is ``export/merge.py``; names and places are ``lora_layout.py``. May import torch and,
through ``weights.py``, safetensors and segment-anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.model.lora_layout import LoraSite, is_replaced, lora_sites
from cellseg1_rt.model.weight_checks import (
    check_finite,
    check_shapes,
    describe_encoder,
    expected_shapes,
)
from cellseg1_rt.model.weights import read_tensors, write_safetensors

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = [
    "LoraLinear",
    "LowRank",
    "add_lora",
    "check_lora",
    "load_lora",
    "lora_parameters",
    "lora_state",
    "read_lora",
    "write_lora",
]


class LowRank(nn.Module):
    """x·Aᵀ·Bᵀ with A [rank, in_features] Kaiming-uniform (a = √5) and B [out_features, rank] zero.

    There is no alpha scaling (CellSeg1, "LoRA").
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return functional.linear(functional.linear(x, self.a), self.b)


class LoraLinear(nn.Module):
    """A frozen linear layer, plus low-rank updates on some of its output rows.

    Dropout sits on the sum, as in the published code, and so on every row: for a fused ``qkv`` on k
    too, which has no update.

    Parameters
    ----------
    frozen : the layer, [out, in].
    updates : by first output row.
    dropout : probability, in training only.
    """

    def __init__(self, frozen: nn.Linear, updates: Mapping[int, LowRank], dropout: float) -> None:
        super().__init__()
        self.frozen = frozen
        self.updates = nn.ModuleDict({str(row): update for row, update in updates.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        total = self.frozen(x)
        for row, update in self.updates.items():
            change = update(x)
            total.narrow(-1, int(row), change.shape[-1]).add_(change)
        dropped: Tensor = self.dropout(total)
        return dropped


def add_lora(sam: Sam, rank: int = 4, dropout: float = 0.1) -> Sam:
    """Put CellSeg1's LoRA into a SAM, in place; everything else is frozen.

    Frozen includes the prompt encoder and the rest of the mask decoder: a LoRA file carries full
    copies of those, but training does not change them. A comes from torch's global generator; B is
    zero, so the function of ``sam`` is unchanged until it is trained.

    Returns
    -------
    ``sam`` itself.

    Raises
    ------
    ConfigError : on a rank below 1, or a SAM that already has a LoRA.
    """
    if rank < 1:
        raise ConfigError("not a positive integer", where="lora rank", got=rank)
    if any(isinstance(module, LoraLinear) for module in sam.modules()):
        raise ConfigError("this SAM already has a LoRA", where="add_lora", fix="load a fresh SAM")
    sam.requires_grad_(False)
    for module, sites in groupby(_sites(sam), key=lambda site: site.module):
        parent, _, name = module.rpartition(".")
        frozen = sam.get_submodule(module)
        updates = {
            site.first_row: LowRank(site.in_features, site.out_features, rank) for site in sites
        }
        wrapped = LoraLinear(frozen, updates, dropout).to(frozen.weight.device)
        setattr(sam.get_submodule(parent), name, wrapped.train(frozen.training))
    return sam


def lora_parameters(sam: Sam) -> list[nn.Parameter]:
    """What is trained: A and B of every site, in the order of the layout."""
    updates = (_update(sam, site) for site in _sites(sam))
    return [parameter for update in updates for parameter in (update.a, update.b)]


def lora_state(sam: Sam) -> dict[str, Tensor]:
    """The LoRA of a SAM in upstream's flat layout, with the tensors that replace SAM's.

    Returns
    -------
    A [rank, in] and B [out, rank] of every site, every ``prompt_encoder.*`` tensor and every
    ``mask_decoder.*`` tensor outside the transformer; copies on the CPU.
    """
    state = {}
    for site in _sites(sam):
        update = _update(sam, site)
        state[site.a_key], state[site.b_key] = update.a, update.b
    state |= {key: value for key, value in sam.state_dict().items() if is_replaced(key)}
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}


def load_lora(sam: Sam, state: Mapping[str, Tensor], *, where: object = "LoRA") -> Sam:
    """Copy a LoRA in upstream's layout into a SAM that ``add_lora`` prepared, in place.

    Returns
    -------
    ``sam`` itself.

    Raises
    ------
    WeightsError : if it was made for another backbone or rank, or is incomplete.
    """
    sites = _sites(sam)
    check_lora(state, *_encoder(sam), rank=_update(sam, sites[0]).a.shape[0], where=where)
    own = sam.state_dict()
    with torch.no_grad():
        for site in sites:
            update = _update(sam, site)
            update.a.copy_(state[site.a_key])
            update.b.copy_(state[site.b_key])
        for key in filter(is_replaced, own):
            own[key].copy_(state[key])
    return sam


def read_lora(path: Path | str, backbone: Backbone, rank: int | None = None) -> dict[str, Tensor]:
    """A LoRA file, upstream's or ours, checked against a backbone.

    Parameters
    ----------
    path : ``.pth`` (a flat dict; no code in it is run) or ``.safetensors``.
    backbone : the encoder it must have been trained on.
    rank : the rank it must have; None takes any, as long as every site has the same.

    Returns
    -------
    Tensors by upstream's names, float32, on the CPU.

    Raises
    ------
    WeightsError : if it is damaged, incomplete, not finite, or made for another backbone or rank.
    """
    state = read_tensors(path)
    check_lora(state, backbone.depth, backbone.embed_dim, rank=rank, where=path)
    check_finite(state, where=path)
    return state


def write_lora(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a LoRA as upstream does (``.pth``) or as ``.safetensors``, whole or not at all.

    Raises
    ------
    ConfigError : on another suffix.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        write_safetensors(path, state, {})
    elif path.suffix == ".pth":
        # Given a path, torch.save writes its random temporary name into the archive.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)
    else:
        raise ConfigError(
            "not a name for a LoRA file",
            where=path,
            expected="a name ending in .pth or .safetensors",
        )


def check_lora(
    state: Mapping[str, Tensor],
    depth: int,
    width: int,
    *,
    rank: int | None = None,
    where: object = "LoRA",
) -> int:
    """Require a complete LoRA for an encoder of ``depth`` blocks of ``width`` channels.

    Returns
    -------
    Its rank.

    Raises
    ------
    WeightsError : naming the encoder, rank or tensors that were found and expected.
    """
    if "image_encoder.patch_embed.proj.weight" in state:
        raise WeightsError(
            "this is a SAM checkpoint",
            where=where,
            expected="a LoRA file",
            fix="pass it as the SAM",
        )
    first = state.get("w_a_000")
    if first is None or first.ndim != 2 or not first.shape[0]:
        raise WeightsError(
            "no LoRA in it",
            where=where,
            got=f"{len(state)} tensors, w_a_000 {'missing' if first is None else 'misshapen'}",
            expected="CellSeg1's tensors: w_a_000, w_b_000, ...",
        )
    found_rank, found_width = first.shape
    numbers = [re.fullmatch(r"w_[ab]_(\d+)", key) for key in state]
    found_depth = max(int(number[1]) for number in numbers if number) // 2 + 1
    if (found_depth, found_width) != (depth, width):
        raise WeightsError(
            "this LoRA was made for another backbone",
            where=where,
            got=describe_encoder(found_depth, found_width),
            expected=describe_encoder(depth, width),
            fix="choose the backbone that the LoRA was trained on",
        )
    if rank is not None and found_rank != rank:
        raise WeightsError("this LoRA has another rank", where=where, got=found_rank, expected=rank)
    check_shapes(state, _shapes(depth, width, found_rank), where=where)
    return int(found_rank)


def _shapes(depth: int, width: int, rank: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for site in lora_sites(depth, width):
        shapes[site.a_key] = (rank, site.in_features)
        shapes[site.b_key] = (site.out_features, rank)
    # Prompt encoder and mask decoder are the same in every SAM, so the smallest one tells.
    smallest = expected_shapes(Backbone("any", 8, 1, 1, (), 1), PATCH_SIZE)
    return shapes | {key: shape for key, shape in smallest.items() if is_replaced(key)}


def _encoder(sam: Sam) -> tuple[int, int]:
    encoder = sam.image_encoder
    return len(encoder.blocks), encoder.patch_embed.proj.out_channels


def _sites(sam: Sam) -> list[LoraSite]:
    return lora_sites(*_encoder(sam))


def _update(sam: Sam, site: LoraSite) -> LowRank:
    layer = sam.get_submodule(site.module)
    if not isinstance(layer, LoraLinear):
        raise ConfigError("this SAM has no LoRA", where=site.module, fix="call add_lora first")
    return cast(LowRank, layer.updates[str(site.first_row)])
