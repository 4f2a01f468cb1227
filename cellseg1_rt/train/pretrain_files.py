"""``pretrain`` from a folder of pairs to a weights file: what is read, left out and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.bundles import SAMPLES, find_bundle
from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.files import require_writable_folder, sha256_of_file
from cellseg1_rt.model.weights import read_sam_state, write_safetensors
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train.pretrain import pretrain
from cellseg1_rt.train.pretrain_data import read_pairs, split_pairs
from cellseg1_rt.train.pretrain_recipe import PretrainRecipe
from cellseg1_rt.version import __version__

__all__ = ["pretrain_files"]


def pretrain_files(
    recipe: PretrainRecipe,
    data: Path,
    output: Path,
    work: Path,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> None:
    """Train on ``data`` and write the averaged weights in SAM's key layout.

    Pictures that ship as samples are left out by content, so that the demo shows unseen images.

    Parameters
    ----------
    recipe : what to train and how long; its ``backbone`` names an export recipe.
    data : folder with ``images/`` and ``labels/``.
    output : safetensors file, float32.
    work : folder for ``checkpoint.pt`` and ``log.jsonl``.
    resume : go on from the checkpoint; without it, one that is there is an error.
    start_from : weights file, or bundle, of this backbone to begin with instead of random weights.
    report : see ``pretrain``.

    Raises
    ------
    InputError : if no pairs are left to train on.
    ConfigError : if there is a checkpoint already, or a folder cannot be written.
    WeightsError : if ``start_from`` is missing, damaged or of another backbone.
    """
    require_writable_folder(output.resolve().parent)
    require_writable_folder(work)
    if (work / "checkpoint.pt").exists() and not resume:
        raise ConfigError(
            "holds the checkpoint of another run",
            where=work,
            fix="pass --resume to go on from it, or choose another --work folder",
        )
    backbone = Backbone.from_dict(read_recipe("export", recipe.backbone)["backbone"])
    samples = {pair.digest for pair in read_pairs(SAMPLES)}
    training, validation = split_pairs(read_pairs(data), recipe.held_out_images, samples)
    if not training:
        raise InputError(
            "no pairs left to train on",
            where=data,
            expected=f"more than the {recipe.held_out_images} that are held out",
        )
    start, started_from = None, "random weights"
    if start_from is not None:
        found = find_bundle(start_from)
        file = found / "weights.safetensors" if found.is_dir() else found
        start = read_sam_state(file, backbone, recipe.image_size)
        started_from = f"sha256 {sha256_of_file(file)}"
    weights = pretrain(recipe, backbone, training, validation, work, start=start, report=report)
    write_safetensors(
        output,
        weights,
        metadata={
            "backbone": backbone.name,
            "image_size": str(recipe.image_size),
            "trained_with": f"cellseg1-rt {__version__} pretrain",
            "steps": str(recipe.total_steps),
            "seed": str(recipe.seed),
            "started_from": started_from,
            "training_images": str(len(training)),
        },
        dtype=torch.float32,
    )
