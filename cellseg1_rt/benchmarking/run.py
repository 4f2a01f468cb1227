"""The benchmark: load every path, measure ceilings, run the rounds, make the report.

Imports what ``jobs`` does; the plain path where it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.choose import Choice, choose_runtime
from cellseg1_rt.benchmarking.ceilings import copy_bytes_per_s, gemm_flop_per_s, is_measured
from cellseg1_rt.benchmarking.contender import Contender, RuntimeContender, Sample
from cellseg1_rt.benchmarking.machine import describe_machine, resolved_threads
from cellseg1_rt.benchmarking.memory import PeakMemory, peak_memory, require_proc
from cellseg1_rt.benchmarking.report import Measured, Report, report_of
from cellseg1_rt.benchmarking.summary import Ceilings, run_rounds
from cellseg1_rt.bundles import SAMPLES, find_bundle
from cellseg1_rt.contract import Manifest, read_manifest
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.extras import require
from cellseg1_rt.jobs.inputs import find_images
from cellseg1_rt.runtime.model import load
from cellseg1_rt.runtime.pipeline import PROMPT_BATCH
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Request", "run_benchmark"]


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes
    ----------
    bundle : a bundle's folder or a packaged name.
    images : files, folders or globs; none: the packaged samples.
    runtimes, precisions : every runtime is measured in every precision that it can compute in.
    threads : of a runtime's operator and of PyTorch; 0 takes all cores.
    prompt_batch : most prompts in one call of the decoder; the plain path takes its own 64.
    repeats : rounds.
    against : ``plain``, or None.
    memory : whether to measure the peak memory of each path.
    settings : values that replace the bundle's own.
    """

    bundle: str
    images: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ("auto",)
    precisions: tuple[str, ...] = ("bundle",)
    threads: int = 0
    prompt_batch: int = PROMPT_BATCH
    repeats: int = 3
    against: str | None = None
    memory: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def run_benchmark(request: Request, say: Callable[[str], None]) -> Report:
    """Measure what a request asks for.

    Parameters
    ----------
    say : is told what is left out, and how far it is.

    Raises
    ------
    ConfigError : on a value out of range, a runtime that cannot, or no image.
    BundleError, InputError, MissingExtraError : as ``load`` and ``read_image`` do; the last also
        where the plain path is asked for without PyTorch.
    """
    _require_valid(request)
    folder = find_bundle(request.bundle)
    manifest = read_manifest(folder)
    settings = InferenceSettings.from_dict({**manifest.settings.to_dict(), **request.settings})
    images = find_images(request.images or [SAMPLES / "images"])
    choices = _choices(request, manifest, say)
    machine = describe_machine(request.threads)
    paths = [_load(request, folder, choice, settings) for choice in choices]
    if request.against == "plain":
        paths.insert(0, _load_plain(request, folder, manifest, settings))
    ceilings = _measure_ceilings(choices, request.threads)
    started = time.perf_counter()

    def run(contender: Contender, image: Path) -> Sample:
        sample = contender.run(image)
        passed = time.perf_counter() - started
        say(f"{passed:6.0f} s  {contender.name}: {image.name}, {sample.segmenting_s:.2f} s")
        return sample

    contenders = [path.contender for path in paths]
    samples = run_rounds(contenders, images, request.repeats, run)
    measured = [
        Measured(path.contender.name, path.contender.precision, path.load_s, found)
        for path, found in zip(paths, samples, strict=True)
    ]
    return report_of(
        measured,
        images=images,
        repeats=request.repeats,
        machine=machine,
        bundle=(folder, manifest),
        settings={**settings.to_dict(), "prompt_batch": request.prompt_batch},
        ceilings=ceilings,
        memory=_measure_memory(request, folder, choices, settings, images)
        if request.memory
        else (),
    )


@dataclass(frozen=True)
class _Path:
    """A path that is ready, and the seconds it took to get there."""

    contender: Contender
    load_s: float


def _require_valid(request: Request) -> None:
    for option, value, least in (
        ("--repeats", request.repeats, 1),
        ("--prompt-batch", request.prompt_batch, 1),
        ("--threads", request.threads, 0),
    ):
        if value < least:
            raise ConfigError("out of range", where=option, got=value, expected=f"at least {least}")
    if request.against not in (None, "plain"):
        raise ConfigError(
            "nothing to compare with", where="--against", got=request.against, expected="plain"
        )
    if request.against == "plain":
        for package in ("torch", "safetensors", "segment_anything"):
            require(package, extra="train", needed_for="--against plain")
    if request.memory:
        require_proc()


def _choices(request: Request, manifest: Manifest, say: Callable[[str], None]) -> list[Choice]:
    """Every runtime in every precision it has; what cannot be is told, unless nothing can."""
    asked = [(name, what) for name in request.runtimes for what in request.precisions]
    found: dict[tuple[str, str], Choice] = {}
    for name, precision in asked:
        try:
            choice = choose_runtime(name, precision=precision, bundle_precision=manifest.precision)
        except ConfigError as error:
            if len(asked) == 1 or ((name, precision) == asked[-1] and not found):
                raise
            say(f"left out: {error}")
            continue
        found.setdefault((choice.runtime, choice.precision), choice)
    return list(found.values())


def _load(request: Request, folder: Path, choice: Choice, settings: InferenceSettings) -> _Path:
    started = time.perf_counter()
    model = load(
        folder,
        runtime=choice.runtime,
        precision=choice.precision,
        threads=request.threads,
        prompt_batch=request.prompt_batch,
        **settings.to_dict(),
    )
    return _Path(RuntimeContender(model), time.perf_counter() - started)


def _load_plain(
    request: Request, folder: Path, manifest: Manifest, settings: InferenceSettings
) -> _Path:
    from cellseg1_rt.benchmarking.plain_contender import PlainContender

    started = time.perf_counter()
    plain = PlainContender(folder, manifest, settings, request.threads)
    return _Path(plain, time.perf_counter() - started)


def _measure_ceilings(choices: list[Choice], threads: int) -> Ceilings:
    """The best that any of the runtimes shows at a precision, and copying."""
    gemm: dict[str, dict[str, float]] = {}
    for choice in choices:
        by_runtime = gemm.setdefault(choice.precision, {})
        if is_measured(choice.runtime):
            by_runtime[choice.runtime] = gemm_flop_per_s(choice, threads)
    return Ceilings(gemm, copy_bytes_per_s(resolved_threads(threads)))


def _measure_memory(
    request: Request,
    folder: Path,
    choices: list[Choice],
    settings: InferenceSettings,
    images: list[Path],
) -> list[PeakMemory]:
    common = {
        "bundle": str(folder),
        "image": str(images[0]),
        "threads": request.threads,
        "prompt_batch": request.prompt_batch,
        "settings": settings.to_dict(),
    }
    asked = [(f"{c.runtime} {c.precision}", c.runtime, c.precision) for c in choices]
    if request.against == "plain":
        asked.insert(0, ("plain", "plain", "fp32"))
    return [
        peak_memory(name, {**common, "path": path, "precision": precision})
        for name, path, precision in asked
    ]
