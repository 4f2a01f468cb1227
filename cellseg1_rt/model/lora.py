"""CellSeg1's LoRA on a SAM: adds it, reads and writes it in upstream's form.

The layer itself is ``lora_linear.py``; names and places are ``lora_layout.py``; merging is
``export/merge.py``. May import torch and, through ``weights.py``, safetensors and segment-anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.files import atomic_path, sha256_of_file
from cellseg1_rt.model.lora_layout import LoraSite, is_replaced, lora_sites
from cellseg1_rt.model.lora_linear import LoraLinear, LowRank
from cellseg1_rt.model.weight_checks import (
    check_finite,
    check_shapes,
    describe_encoder,
    expected_shapes,
)
from cellseg1_rt.model.weights import read_metadata, read_tensors, write_safetensors

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = [
    "LoraLinear",
    "LowRank",
    "add_lora",
    "check_lora",
    "head_parameters",
    "load_lora",
    "lora_parameters",
    "lora_state",
    "read_lora",
    "read_provenance",
    "write_lora",
]

_HASH_KEY = "lora_sha256"


def add_lora(sam: Sam, rank: int = 4, dropout: float = 0.1) -> Sam:
    """Put CellSeg1's LoRA into a SAM, in place; everything else is frozen.

    Frozen includes the prompt encoder and the rest of the mask decoder: a LoRA file carries full
    copies of those, but published training does not change them (``head_parameters``). A comes
    from torch's global generator; B is zero, so the function of ``sam`` is unchanged until it is
    trained.

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


def head_parameters(sam: Sam) -> list[nn.Parameter]:
    """Those of the mask decoder outside its transformer, of which a LoRA file has full copies.

    They are its tokens, its upscaling and the heads of masks and scores. ``add_lora`` freezes them.
    """
    return [
        parameter
        for name, parameter in sam.mask_decoder.named_parameters(prefix="mask_decoder")
        if is_replaced(name)
    ]


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


def write_lora(
    path: Path, state: Mapping[str, Tensor], provenance: Mapping[str, str] | None = None
) -> None:
    """Write a LoRA as upstream does (``.pth``) or as ``.safetensors``, whole or not at all.

    Parameters
    ----------
    path : the file.
    state : tensors in upstream's layout.
    provenance : what it was made from, text by name: metadata of a ``.safetensors`` file; a
        ``.pth`` file gets NAME.json beside it, with the file's hash, since upstream's form has no
        place for it.

    Raises
    ------
    ConfigError : on another suffix.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        write_safetensors(path, state, provenance or {})
    elif path.suffix == ".pth":
        # Given a path, torch.save writes its random temporary name into the archive.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)
        if provenance is not None:
            told = {_HASH_KEY: sha256_of_file(path), **provenance}
            with atomic_path(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    else:
        raise ConfigError(
            "not a name for a LoRA file",
            where=path,
            expected="a name ending in .pth or .safetensors",
        )


def read_provenance(path: Path | str) -> dict[str, str]:
    """What ``write_lora`` was told of a LoRA file; empty if nothing, as in upstream's files.

    Raises
    ------
    WeightsError : if NAME.json beside a ``.pth`` file cannot be read, or is of another file.
    """
    path = Path(path)
    beside = path.with_suffix(".json")
    if path.suffix == ".safetensors" or not beside.is_file():
        return read_metadata(path)
    fix = "remove it, or put the LoRA file that it belongs to beside it"
    try:
        told = dict(json.loads(beside.read_text(encoding="utf-8")))
        expected = told.pop(_HASH_KEY)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise WeightsError("provenance cannot be read", where=beside, got=error, fix=fix) from error
    found = sha256_of_file(path)
    if found != expected:
        raise WeightsError(
            "provenance of another LoRA file", where=beside, got=expected, expected=found, fix=fix
        )
    return {str(key): str(value) for key, value in told.items()}


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
