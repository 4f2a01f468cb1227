"""Checks that tensors are the model they should be, and says which model they are if not.

Reads no files (``weights.py`` does). May import torch and, through ``sam.py``, segment-anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.model.sam import build_sam, resize_positions
from cellseg1_rt.recipes import read_recipe, recipe_names

__all__ = [
    "check_finite",
    "check_shapes",
    "describe_encoder",
    "expected_shapes",
    "fit_sam_state",
    "names_in_words",
]

PATCHES = "image_encoder.patch_embed.proj.weight"
POSITIONS = "image_encoder.pos_embed"
NAMES_SHOWN = 3
"""How many names an error shows before it counts the rest."""


def expected_shapes(backbone: Backbone, image_size: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a SAM, by name, without allocating any.

    Raises
    ------
    ConfigError : on an image size that is not a positive multiple of 16.
    """
    with torch.device("meta"):
        state = build_sam(backbone, image_size).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def fit_sam_state(
    state: Mapping[str, Tensor], backbone: Backbone, image_size: int, *, where: object
) -> dict[str, Tensor]:
    """Check a SAM's weights against a backbone and bring its positions to ``image_size``.

    Parameters
    ----------
    state : SAM's weights at any image size, float32; not modified, untouched tensors are shared.
    backbone : the encoder that it must be.
    image_size : side of the square input in px, a multiple of 16.
    where : what errors call it.

    Raises
    ------
    ConfigError : on an image size that is not a positive multiple of 16.
    WeightsError : on missing, unexpected or misshapen tensors.
    """
    names = expected_shapes(backbone, image_size)
    if PATCHES not in state and "w_a_000" in state:
        raise WeightsError(
            "this is a LoRA file",
            where=where,
            expected="a SAM checkpoint",
            fix="pass it as the LoRA, together with the SAM checkpoint it was trained on",
        )
    _check_encoder(state, backbone, where)
    _check_names(state, names, where)
    grid = _source_grid(state, backbone, where)
    # Shapes are those of the file's own image size: a windowed table in place of a global one would
    # otherwise be resized into it without a word.
    check_shapes(state, expected_shapes(backbone, grid * PATCH_SIZE), where=where)
    return resize_positions(dict(state), backbone, image_size)


def check_shapes(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, where: object
) -> None:
    """Require exactly these names and shapes.

    Raises
    ------
    WeightsError : naming the first few tensors that do not fit, and how many there are.
    """
    _check_names(state, shapes, where)
    wrong = [key for key, shape in shapes.items() if tuple(state[key].shape) != shape]
    if wrong:
        first = wrong[0]
        raise WeightsError(
            f"{len(wrong)} of {len(shapes)} tensors have another shape: {names_in_words(wrong)}",
            where=where,
            got=f"{first} {list(state[first].shape)}",
            expected=list(shapes[first]),
            fix="choose the backbone that the file was made for",
        )


def check_finite(state: Mapping[str, Tensor], *, where: object) -> None:
    """Require that no tensor holds a NaN or an infinity.

    Raises
    ------
    WeightsError : naming the first few tensors that do, and how many there are.
    """
    broken = [key for key, values in state.items() if not bool(torch.isfinite(values).all())]
    if broken:
        raise WeightsError(
            f"{len(broken)} tensors hold values that are not finite: {names_in_words(broken)}",
            where=where,
            fix="train or fetch the weights again",
        )


def describe_encoder(depth: int, width: int) -> str:
    """An encoder in words, with the name of the shipped recipe it fits, if there is one."""
    tables = {name: read_recipe("export", name)["backbone"] for name in recipe_names("export")}
    fits = [
        name
        for name, table in tables.items()
        if (table["depth"], table["embed_dim"]) == (depth, width)
    ]
    return f"{depth} encoder blocks of width {width}" + (f" ({fits[0]})" if fits else "")


def names_in_words(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _check_encoder(state: Mapping[str, Tensor], backbone: Backbone, where: object) -> None:
    """Name the model that it is, where depth and width tell: a hundred misfits would not."""
    blocks = [re.match(r"image_encoder\.blocks\.(\d+)\.", key) for key in state]
    depth = max((int(found[1]) for found in blocks if found), default=-1) + 1
    if PATCHES not in state or not depth or not state[PATCHES].ndim:
        return
    width = state[PATCHES].shape[0]
    if (depth, width) != (backbone.depth, backbone.embed_dim):
        raise WeightsError(
            "this SAM has another backbone",
            where=where,
            got=describe_encoder(depth, width),
            expected=describe_encoder(backbone.depth, backbone.embed_dim),
            fix="choose the backbone of the file, or the file of the backbone",
        )


def _check_names(state: Collection[str], names: Collection[str], where: object) -> None:
    for problem, keys in (
        ("missing", [key for key in names if key not in state]),
        ("unexpected", [key for key in state if key not in names]),
    ):
        if keys:
            raise WeightsError(
                f"{len(keys)} tensors are {problem}: {names_in_words(keys)}",
                where=where,
                got=f"{len(state)} tensors",
                expected=f"exactly the {len(names)} of this model",
            )


def _source_grid(state: Mapping[str, Tensor], backbone: Backbone, where: object) -> int:
    shape = list(state[POSITIONS].shape)
    side = shape[1] if len(shape) == 4 else 0
    if shape != [1, side, side, backbone.embed_dim] or side < 1:
        raise WeightsError(
            f"{POSITIONS} is not a square grid",
            where=where,
            got=shape,
            expected=f"[1, grid, grid, {backbone.embed_dim}]",
        )
    return side
