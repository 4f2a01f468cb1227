"""From merged weights to a bundle: weights, three graphs, manifest, verified before it exists.

May import torch, onnx and onnxruntime.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.contract import (
    GRAPHS,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
)
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.export.check import write_bundle_check
from cellseg1_rt.export.graphs import Encoder, SwappableEncoder, graph_modules
from cellseg1_rt.export.onnx_graphs import write_graph
from cellseg1_rt.export.plain_graphs import plain_modules
from cellseg1_rt.export.swappable import store_swappable
from cellseg1_rt.export.verify import (
    Difference,
    compare_graphs,
    compare_modules,
    require_within,
)
from cellseg1_rt.export.weight_file import WeightFile
from cellseg1_rt.extras import require
from cellseg1_rt.files import require_writable_folder, sha256_of_file
from cellseg1_rt.model.pairs import EncoderPairs, load_bundle_sam, load_frozen_sam
from cellseg1_rt.model.precision import in_precision
from cellseg1_rt.model.weights import read_metadata, read_sam_state, write_safetensors
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.version import __version__

__all__ = ["ExportRecipe", "Exported", "export_bundle"]

TOLERANCES = {
    "fp32": dict.fromkeys(GRAPHS, 1e-4),
    "fp16": dict.fromkeys(GRAPHS, 0.1),
    "bf16": dict.fromkeys(GRAPHS, 0.8),
}
_STORAGE = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class ExportRecipe:
    """How weights become graphs, as in ``export/*.toml``.

    Attributes
    ----------
    backbone : shape of the image encoder the weights are for.
    image_size : side S of the square input in px, a multiple of 16.
    precision : what the graphs compute in.
    weight_storage : what weights rest in on disk, ``fp32`` or ``fp16``.
    settings : inference settings written into the manifest.
    """

    backbone: Backbone
    image_size: int
    precision: str
    weight_storage: str
    settings: InferenceSettings

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExportRecipe:
        """A recipe from its TOML tables.

        Raises
        ------
        ConfigError : on a missing or unknown field, or a value that is not offered.
        """
        known = {"backbone", "image_size", "precision", "weight_storage", "settings"}
        needed = known - {"settings"}
        if not needed <= set(values) <= known:
            raise ConfigError(
                "fields do not fit",
                where="export recipe",
                got=", ".join(sorted(values)),
                expected=f"{', '.join(sorted(needed))} and at most settings",
            )
        for name, choices in (("precision", TOLERANCES), ("weight_storage", _STORAGE)):
            if values[name] not in choices:
                raise ConfigError(
                    "not offered",
                    where=f"export recipe, {name}",
                    got=repr(values[name]),
                    expected=f"one of {', '.join(choices)}",
                )
        return cls(
            backbone=Backbone.from_dict(values["backbone"]),
            image_size=values["image_size"],
            precision=values["precision"],
            weight_storage=values["weight_storage"],
            settings=InferenceSettings.from_dict(values.get("settings", {})),
        )


@dataclass(frozen=True)
class Exported:
    """A finished export: where it is, what it says, how exact it is.

    Attributes
    ----------
    bundle, manifest : the folder and its manifest.
    differences : of the graphs, on ONNX Runtime, from SAM's modules in float32.
    rounding : of the modules that were exported, in PyTorch, which rounds every operation of fp16
        and bf16; empty for fp32.
    """

    bundle: Path
    manifest: Manifest
    differences: list[Difference]
    rounding: list[Difference]


def export_bundle(
    weights: Path,
    bundle: Path,
    recipe: ExportRecipe,
    *,
    swappable_lora: Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a bundle. The folder appears whole, after verification, or not at all.

    Parameters
    ----------
    weights : merged safetensors, or any SAM checkpoint in Meta's form.
    bundle : the folder to make.
    recipe : how.
    swappable_lora : a LoRA that is not in ``weights``: its pairs become inputs of the encoder,
        which is then the same for every LoRA of this SAM and rank.
    overwrite : replace a folder that is there.

    Raises
    ------
    WeightsError : if the weights are damaged or not the recipe's backbone.
    ConfigError : if the folder exists, or cannot be written.
    VerificationError : if a graph differs from PyTorch by more than its tolerance.
    """
    require("onnxruntime", extra="cpu", needed_for="export, which verifies what it made,")
    with _new_folder(bundle, overwrite) as folder:
        provenance, pairs = _store(folder, weights, swappable_lora, recipe)
        manifest = Manifest(
            backbone=recipe.backbone,
            image_size=recipe.image_size,
            precision=recipe.precision,
            settings=recipe.settings,
            tolerances=TOLERANCES[recipe.precision],
            provenance=provenance | _versions(),
            files={},
            lora_rank=None if pairs is None else pairs.a.shape[1],
        )
        plain, sam = _stored_sams(folder, manifest)
        typed = graph_modules(in_precision(sam, recipe.precision), pairs)
        differences, rounding = _write_graphs(folder, plain_modules(plain), typed, manifest)
        entries = {
            path.name: FileEntry(sha256_of_file(path), path.stat().st_size)
            for path in sorted(folder.iterdir())
        }
        manifest = replace(manifest, files=entries)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return Exported(bundle, manifest, differences, rounding)


def _write_graphs(
    folder: Path,
    plain: dict[str, torch.nn.Module],
    typed: dict[str, torch.nn.Module],
    manifest: Manifest,
) -> tuple[list[Difference], list[Difference]]:
    """Write the graphs of typed modules, verify them, and write the bundle's check.

    They are held against SAM's own modules, so that every export proves its rewrites on its own
    weights. Returns ``Exported``'s ``differences`` and ``rounding``.
    """
    size, precision = manifest.image_size, manifest.precision
    files = {manifest.weights_name_of(name) for name in typed}
    weight_files = {name: WeightFile(folder / name, precision) for name in files}
    for name, module in typed.items():
        if isinstance(module, Encoder) and module.pairs is not None:
            module = SwappableEncoder(module)
        spec = manifest.graphs[name]
        write_graph(
            spec,
            module,
            folder / spec.file_name,
            image_size=size,
            precision=precision,
            weights=weight_files[manifest.weights_name_of(name)],
            format_version=manifest.format_version,
        )
    tolerances = TOLERANCES[precision]
    differences = compare_graphs(folder, plain, size, precision)
    rounding = compare_modules(typed, plain, size) if precision != "fp32" else []
    require_within(differences + rounding, tolerances)
    write_bundle_check(
        folder, plain, typed, image_size=size, precision=precision, tolerances=tolerances
    )
    return differences, rounding


def _store(
    folder: Path, weights: Path, lora: Path | None, recipe: ExportRecipe
) -> tuple[dict[str, str], EncoderPairs | None]:
    """Write a bundle's weights; returns their provenance, and the pairs that its encoder takes."""
    form, dtype = (recipe.backbone, recipe.image_size), _STORAGE[recipe.weight_storage]
    own = {"weights_sha256": sha256_of_file(weights)}
    if lora is not None:
        provenance = store_swappable(folder, weights, lora, *form, dtype)
        return provenance | own, EncoderPairs.in_folder(folder)
    metadata = {"backbone": recipe.backbone.name, "image_size": str(recipe.image_size)}
    write_safetensors(folder / WEIGHTS_NAME, read_sam_state(weights, *form), metadata, dtype)
    return read_metadata(weights) | own, None


def _stored_sams(folder: Path, manifest: Manifest) -> tuple[Sam, Sam]:
    """What the graphs have to compute, in float32; and whose graphs they are, still in float32.

    What rests on disk is what is exported and verified, rounding included.
    """
    plain = load_bundle_sam(folder, manifest)
    if manifest.lora_rank is None and manifest.precision == "fp32":
        return plain, plain  # they share their weights
    return plain, load_frozen_sam(folder, manifest)


def _versions() -> dict[str, str]:
    libraries = ("torch", "onnx", "onnxruntime", "segment-anything")
    return {"cellseg1-rt": __version__} | {name: version(name) for name in libraries}


@contextmanager
def _new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well."""
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            "already there",
            where=target,
            expected="a folder that does not exist yet",
            fix="choose another folder, or pass --overwrite",
        )
    parent = require_writable_folder(target.resolve().parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
