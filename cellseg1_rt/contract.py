"""The contract of graphs and bundle: what each stage may rely on, and what is refused.

A bundle is a folder with three graphs, the weights they refer to, and a manifest. In a swappable
one the encoder has the weights of the SAM that a LoRA was trained on and takes the LoRA's pairs as
inputs, so that bundles of several LoRAs have the same encoder. This module reads and checks bundles
without any runtime library. Imports the standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import BundleError, ConfigError
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.graph_specs import GRAPHS, GraphSpec, TensorSpec, swappable_graphs
from cellseg1_rt.settings import InferenceSettings

__all__ = [
    "CHECK_NAME",
    "DECODER_NAME",
    "FORMAT_VERSION",
    "GRAPHS",
    "MANIFEST_NAME",
    "METADATA_PREFIX",
    "PAIRS_NAME",
    "SWAPPABLE_VERSION",
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
SWAPPABLE_VERSION = 2
"""Of bundles whose encoder takes a LoRA's pairs: what knows version 1 only says so and stops."""
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.safetensors"
DECODER_NAME = "decoder.safetensors"
"""In a swappable bundle, the weights of prompt decoder and mask head, the LoRA merged."""
PAIRS_NAME = "lora.npz"
"""In a swappable bundle, the pairs that its encoder takes (``cellseg1_rt.lora_pairs``)."""
CHECK_NAME = "check.npz"
"""Inputs and float32 outputs (``cellseg1_rt.check``); bundles of earlier versions have none."""
METADATA_PREFIX = "cellseg1_rt."
PRECISIONS = ("fp32", "fp16", "bf16")

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


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
    lora_rank : of the pairs that the encoder takes; None where all weights are in the graphs.
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
    lora_rank: int | None = None

    @property
    def format_version(self) -> int:
        """What a reader has to know to use the bundle."""
        return FORMAT_VERSION if self.lora_rank is None else SWAPPABLE_VERSION

    @property
    def graphs(self) -> dict[str, GraphSpec]:
        """The bundle's graphs, by name."""
        if self.lora_rank is None:
            return GRAPHS
        return swappable_graphs(self.backbone.depth, self.backbone.embed_dim, self.lora_rank)

    @property
    def model_files(self) -> tuple[str, ...]:
        """All that results depend on: the graphs, their weights, and a LoRA's pairs."""
        files = (*(spec.file_name for spec in GRAPHS.values()), WEIGHTS_NAME)
        return files if self.lora_rank is None else (*files, DECODER_NAME, PAIRS_NAME)

    def weights_name_of(self, graph: str) -> str:
        """The file of weights that a graph refers to."""
        apart = self.lora_rank is not None and graph != "encoder"
        return DECODER_NAME if apart else WEIGHTS_NAME

    def weights_of(self, graph: str) -> FileEntry:
        """Hash and size of the weights that a graph refers to."""
        return self.files[self.weights_name_of(graph)]

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
            **({} if self.lora_rank is None else {"lora_rank": self.lora_rank}),
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
    if version not in (FORMAT_VERSION, SWAPPABLE_VERSION):
        raise BundleError(
            "bundle of another format version",
            where=path,
            got=version,
            expected=f"{FORMAT_VERSION} or {SWAPPABLE_VERSION}",
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
            lora_rank=values["lora_rank"] if values["format_version"] > FORMAT_VERSION else None,
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
    rank = manifest.lora_rank
    if manifest.format_version != values["format_version"] or (
        rank is not None and not (type(rank) is int and rank > 0)
    ):
        raise BundleError(
            "lora_rank is not one", where=path, got=rank, expected="a whole number from 1 on"
        )
    expected = set(manifest.model_files)
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
