"""The contract of graphs and bundle: what each stage may rely on, and what is refused.

A bundle is a folder with three graphs, the weights they refer to, and a manifest. This module reads
and checks it without any runtime library. Imports the standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import BundleError, ConfigError
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.settings import InferenceSettings

__all__ = [
    "CHECK_NAME",
    "FORMAT_VERSION",
    "GRAPHS",
    "MANIFEST_NAME",
    "METADATA_PREFIX",
    "WEIGHTS_NAME",
    "FileEntry",
    "GraphSpec",
    "Manifest",
    "TensorSpec",
    "check_graph_metadata",
    "read_manifest",
    "verify_files",
]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.safetensors"
CHECK_NAME = "check.npz"
"""Inputs and float32 outputs (``cellseg1_rt.check``); bundles of earlier versions have none."""
METADATA_PREFIX = "cellseg1_rt."
PRECISIONS = ("fp32", "fp16", "bf16")

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. Letters in ``shape`` are dynamic (B, N, M) or follow the image size.

    S is the image size, g = S/16 the grid, T = g·g its positions, L = 4g the logits' side.
    """

    name: str
    dtype: Literal["uint8", "int32", "int64", "float32", "precision"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph of the bundle, by its inputs and outputs in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def file_name(self) -> str:
        """The graph's file inside the bundle."""
        return f"{self.name}.onnx"


GRAPHS: dict[str, GraphSpec] = {
    spec.name: spec
    for spec in (
        GraphSpec(
            "encoder",
            (
                TensorSpec("image", "uint8", ("B", "S", "S", 3)),
                TensorSpec("size", "int32", ("B", 2)),
            ),
            (TensorSpec("embedding", "precision", ("B", 256, "g", "g")),),
        ),
        GraphSpec(
            "prompt_decoder",
            (
                TensorSpec("embedding", "precision", (1, 256, "g", "g")),
                TensorSpec("points", "float32", ("N", 2)),
            ),
            (
                TensorSpec("score", "float32", ("N",)),
                TensorSpec("hyper", "precision", ("N", 32)),
                TensorSpec("keys", "precision", ("N", "T", 256)),
            ),
        ),
        GraphSpec(
            "mask_head",
            (
                TensorSpec("keys", "precision", ("N", "T", 256)),
                TensorSpec("hyper", "precision", ("N", 32)),
                TensorSpec("index", "int64", ("M",)),
            ),
            (TensorSpec("logits", "float32", ("M", "L", "L")),),
        ),
    )
}


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: SHA-256 of its bytes (64 hex digits) and its size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle is and where it comes from.

    Attributes
    ----------
    backbone : shape of the image encoder.
    image_size : side S of the square input in px, a multiple of 16.
    precision : ``fp32``, ``fp16`` or ``bf16``, typed into the graphs.
    settings : inference settings a user gets by default.
    tolerances : per graph, the largest difference from PyTorch allowed at export, in units of the
        reference output's standard deviation.
    provenance : hashes of the weights' sources, tool versions, free text. Informative only.
    files : every other file of the bundle.
    """

    backbone: Backbone
    image_size: int
    precision: str
    settings: InferenceSettings
    tolerances: dict[str, float]
    provenance: dict[str, Any]
    files: dict[str, FileEntry]
    pixel_mean: tuple[float, float, float] = PIXEL_MEAN
    pixel_std: tuple[float, float, float] = PIXEL_STD
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def grid(self) -> int:
        """Side g of the embedding."""
        return self.image_size // PATCH_SIZE

    def to_json(self) -> str:
        """The manifest file's text."""
        values = {
            "format_version": self.format_version,
            "backbone": self.backbone.to_dict(),
            "image_size": self.image_size,
            "precision": self.precision,
            "settings": self.settings.to_dict(),
            "normalisation": {"mean": list(self.pixel_mean), "std": list(self.pixel_std)},
            "tolerances": self.tolerances,
            "provenance": self.provenance,
            "files": {name: asdict(entry) for name, entry in sorted(self.files.items())},
        }
        return json.dumps(values, indent=2) + "\n"


def read_manifest(bundle: Path) -> Manifest:
    """Read and check ``bundle/manifest.json``.

    Raises
    ------
    BundleError : if it is missing, not JSON, of a newer format, or a field is missing, unknown or
        out of range. The field is named.
    """
    path = Path(bundle) / MANIFEST_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            "not a bundle",
            where=bundle,
            expected=f"a folder with a {MANIFEST_NAME}",
            fix="name a folder made by 'cellseg1-rt export', or 'tiny'",
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError("manifest cannot be read", where=path, got=error) from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise BundleError("no format_version", where=path, expected=FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise BundleError(
            "bundle of another format version",
            where=path,
            got=version,
            expected=FORMAT_VERSION,
            fix="upgrade cellseg1-rt" if version > FORMAT_VERSION else "export the bundle again",
        )
    return _manifest_from_dict(values, path)


def _manifest_from_dict(values: dict[str, Any], path: Path) -> Manifest:
    try:
        manifest = Manifest(
            backbone=Backbone.from_dict(values["backbone"]),
            image_size=values["image_size"],
            precision=values["precision"],
            settings=InferenceSettings.from_dict(values["settings"]),
            tolerances={name: float(value) for name, value in values["tolerances"].items()},
            provenance=dict(values["provenance"]),
            files={name: FileEntry(**entry) for name, entry in values["files"].items()},
            pixel_mean=tuple(values["normalisation"]["mean"]),
            pixel_std=tuple(values["normalisation"]["std"]),
        )
    except KeyError as error:
        raise BundleError("a field is missing", where=path, got=f"no {error}") from error
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise BundleError("a field has the wrong form", where=path, got=error) from error
    size = manifest.image_size
    if not isinstance(size, int) or size < PATCH_SIZE or size % PATCH_SIZE:
        raise BundleError(
            "image_size is not a positive multiple of the patch size",
            where=path,
            got=size,
            expected=f"a multiple of {PATCH_SIZE}",
        )
    if manifest.precision not in PRECISIONS:
        raise BundleError(
            "unknown precision",
            where=path,
            got=manifest.precision,
            expected=f"one of {', '.join(PRECISIONS)}",
        )
    expected = {spec.file_name for spec in GRAPHS.values()} | {WEIGHTS_NAME}
    if not expected <= set(manifest.files):
        missing = ", ".join(sorted(expected - set(manifest.files)))
        raise BundleError("files are not listed", where=path, got=f"no entry for {missing}")
    if any(Path(name).name != name for name in manifest.files):
        raise BundleError("a listed file lies outside the bundle", where=path)
    return manifest


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Check size and SHA-256 of every listed file.

    Raises
    ------
    BundleError : naming the first file that is missing or differs, with both figures.
    """
    for name, entry in manifest.files.items():
        path = Path(bundle) / name
        if not path.is_file():
            raise BundleError("file is missing", where=path, fix="copy the whole bundle again")
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise BundleError(
                "file has another size than the manifest says",
                where=path,
                got=f"{size} bytes",
                expected=f"{entry.size_bytes} bytes",
                fix="copy the bundle again or export it again",
            )
        digest = sha256_of_file(path)
        if digest != entry.sha256:
            raise BundleError(
                "file has another SHA-256 than the manifest says",
                where=path,
                got=digest,
                expected=entry.sha256,
                fix="copy the bundle again or export it again",
            )


def check_graph_metadata(
    metadata: dict[str, str], name: str, manifest: Manifest, path: Path
) -> None:
    """Check that a graph says of itself what the manifest says of it.

    Raises
    ------
    BundleError : naming the field, what it holds and what was expected.
    """
    expected = {
        "format_version": str(manifest.format_version),
        "graph": name,
        "image_size": str(manifest.image_size),
        "precision": manifest.precision,
    }
    for key, value in expected.items():
        got = metadata.get(METADATA_PREFIX + key)
        if got != value:
            raise BundleError(
                f"graph metadata {METADATA_PREFIX + key!r} does not fit",
                where=path,
                got="nothing" if got is None else repr(got),
                expected=repr(value),
                fix="export the bundle again",
            )
