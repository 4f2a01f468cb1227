"""What a benchmark found, as one value with a stable JSON form, which docs/benchmark.md describes.

Imports numpy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.choose import RUNTIMES
from cellseg1_rt.benchmarking.agreement import Agreement, agreement_of
from cellseg1_rt.benchmarking.ceilings import is_measured
from cellseg1_rt.benchmarking.contender import Sample
from cellseg1_rt.benchmarking.machine import describe_bundle, versions_of
from cellseg1_rt.benchmarking.memory import PeakMemory
from cellseg1_rt.benchmarking.summary import (
    Ceilings,
    Spread,
    StageRow,
    ratios_of_pairs,
    spread_of,
    stages_of,
)
from cellseg1_rt.contract import Manifest
from cellseg1_rt.files import sha256_of_file

__all__ = ["FORMAT", "ContenderRow", "Measured", "Report", "report_of"]

FORMAT = 1
"""Of the JSON: a name that goes or changes its meaning makes a new number, a new name does not."""

PLAIN_PACKAGES = ("torch", "segment-anything")


@dataclass(frozen=True)
class Measured:
    """All samples of a path, round by round, image by image."""

    name: str
    precision: str
    load_s: float
    samples: list[Sample]


@dataclass(frozen=True)
class ContenderRow:
    """What a path showed.

    Attributes
    ----------
    name, precision : what it is and computes in.
    load_seconds : until it was ready, once.
    segmenting_seconds : from pixels to labels, without reading and writing.
    stages : a row a stage.
    prompts_passed : of an image, mean: those whose score passed.
    agreement : its labels against the reference's; None for the reference itself.
    times_faster : than the plain path, of pairs that ran one after the other; None without it.
    """

    name: str
    precision: str
    load_seconds: float
    segmenting_seconds: Spread
    stages: list[StageRow]
    prompts_passed: float
    agreement: Agreement | None
    times_faster: Spread | None


@dataclass(frozen=True)
class Report:
    """A benchmark; ``to_json`` writes its fields under their own names.

    Attributes
    ----------
    reference : the path whose labels the others are held against: the plain one, or the first.
    images : name, hash, height and width of each.
    """

    format: int
    machine: dict[str, Any]
    versions: dict[str, str]
    bundle: dict[str, Any]
    settings: dict[str, Any]
    repeats: int
    images: list[dict[str, Any]]
    ceilings: Ceilings
    reference: str
    contenders: list[ContenderRow]
    memory: list[PeakMemory]

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def report_of(
    measured: Sequence[Measured],
    *,
    images: Sequence[Path],
    repeats: int,
    machine: dict[str, Any],
    bundle: tuple[Path, Manifest],
    settings: dict[str, Any],
    ceilings: Ceilings,
    memory: Sequence[PeakMemory],
) -> Report:
    """Sum up samples. The first path is the reference; ``plain``, if it is there, comes first."""
    reference = measured[0]
    packages = tuple(runtime.package for runtime in RUNTIMES.values())
    is_plain = reference.name == "plain"
    return Report(
        FORMAT,
        machine,
        versions_of(("numpy", "numba", *packages, *(PLAIN_PACKAGES if is_plain else ()))),
        describe_bundle(*bundle),
        settings,
        repeats,
        [_image(path, sample) for path, sample in zip(images, reference.samples, strict=False)],
        ceilings,
        reference.name,
        [_row(path, reference, len(images), ceilings, is_plain) for path in measured],
        list(memory),
    )


def _image(path: Path, sample: Sample) -> dict[str, Any]:
    height, width = sample.labels.shape
    return {"name": path.name, "sha256": sha256_of_file(path), "height": height, "width": width}


def _row(
    path: Measured, reference: Measured, images: int, ceilings: Ceilings, is_plain: bool
) -> ContenderRow:
    samples, others = path.samples, reference.samples
    is_reference = path is reference
    agreement = agreement_of(
        [sample.labels for sample in samples[:images]],
        [sample.labels for sample in others[:images]],
    )
    return ContenderRow(
        path.name,
        path.precision,
        path.load_s,
        spread_of([sample.segmenting_s for sample in samples]),
        stages_of(samples, path.precision, ceilings if is_measured(path.name) else None),
        sum(sample.survivors for sample in samples) / len(samples),
        None if is_reference else agreement,
        ratios_of_pairs(others, samples) if is_plain and not is_reference else None,
    )
