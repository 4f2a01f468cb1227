"""All runtimes on a machine with an NVIDIA card: engines built, verified, timed; JSON and a table.

    python benchmarks/gpu/run.py my_bundle -o gpu_report

It writes `report.json` and `report.md`, whose table is to be pasted into an issue. What cannot run
on this machine is skipped, each part with its reason, and the rest goes on. The recipe follows from
the card; `--recipe` names another. Nothing else should use the card meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg1_rt.backends.choose import RUNTIMES
from cellseg1_rt.backends.tensorrt_library import Card, present_card
from cellseg1_rt.benchmarking.machine import describe_bundle, describe_machine, versions_of
from cellseg1_rt.benchmarking.run import Request, run_benchmark
from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import Manifest, read_manifest
from cellseg1_rt.engine.build import BuildOptions, build_engines
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine.report import report_of
from cellseg1_rt.errors import CellSeg1RtError
from cellseg1_rt.files import atomic_path, require_writable_folder
from cellseg1_rt.recipes import read_recipe

FORMAT = 1
RECIPES = {"sm_75": "rtx20", "sm_86": "rtx30", "sm_89": "rtx40", "sm_120": "rtx50"}
"""For TensorRT-RTX, by the card's compute capability."""

PACKAGES = ("numpy", "numba", "numba-cuda", "onnxruntime", "onnxruntime-gpu",
            "onnxruntime-ep-nv-tensorrt-rtx", "openvino", "tensorrt-rtx", "tensorrt")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A part of the run: what came of it, or why it was skipped.

    Attributes
    ----------
    kind : ``build``, ``verify`` or ``benchmark``.
    runtime : a value of ``--runtime``.
    skipped : the reason; None where it was done.
    values : what it gave, JSON's types only.
    """

    kind: str
    runtime: str
    skipped: str | None
    values: Any = None


@dataclass(frozen=True)
class Asked:
    """What is to be run.

    Attributes
    ----------
    recipe : for TensorRT-RTX; None takes the card's, or ``rtx40`` without one.
    build : whether to build engines, or take those that are there.
    """

    bundle: Path
    manifest: Manifest
    card: Card | None
    recipe: str | None
    build: bool
    request: dict[str, Any] = field(default_factory=dict)


def attempt(kind: str, runtime: str, work: Callable[[], Any]) -> Part:
    """Do a part, or keep the line that says why it cannot be done."""
    typer.echo(f"{kind}: {runtime} …", err=True)
    try:
        part = Part(kind, runtime, None, work())
    except CellSeg1RtError as error:
        part = Part(kind, runtime, str(error))
        typer.echo(f"  skipped: {error}", err=True)
    return part


def build(asked: Asked, flavor: str) -> Any:
    """Build the engines of a flavour for the card, or for the recipe's without one."""
    target = asked.card.target if asked.card else ""
    name = asked.recipe or RECIPES.get(target, "rtx40")
    recipe = EngineRecipe.from_dict(read_recipe("engine", name)).updated(flavor=flavor)
    groups = build_engines(asked.bundle, recipe, BuildOptions())
    return [report_of(group, recipe) for group in groups]


def verify(asked: Asked, runtime: str) -> Any:
    """Run the bundle's check on the card."""
    from cellseg1_rt.backends.tensorrt import load_tensorrt

    loaded = load_tensorrt(asked.bundle, asked.manifest, runtime, check_again=True)
    return [asdict(each) for each in loaded.checked or ()]


def benchmark(asked: Asked, runtime: str) -> Any:
    """Time a runtime, at the bundle's precision."""
    request = Request(str(asked.bundle), runtimes=(runtime,), **asked.request)
    report = run_benchmark(request, lambda line: typer.echo(f"  {line}", err=True))
    return json.loads(report.to_json())


def parts_of(asked: Asked, runtimes: list[str]) -> list[Part]:
    """Every part in order. ONNX Runtime's providers are verified when they are loaded."""
    parts = []
    for runtime in runtimes:
        if RUNTIMES[runtime].engines:
            if asked.build:
                parts.append(attempt("build", runtime, lambda r=runtime: build(asked, r)))
            else:
                parts.append(Part("build", runtime, "--no-build was asked for"))
            parts.append(attempt("verify", runtime, lambda r=runtime: verify(asked, r)))
        parts.append(attempt("benchmark", runtime, lambda r=runtime: benchmark(asked, r)))
    return parts


def table(card: Card | None, why: str | None, bundle: dict[str, Any], parts: list[Part]) -> str:
    """The report as Markdown."""
    found = f"{card.name} ({card.target}), driver {card.driver}" if card else f"no card: {why}"
    lines = [
        f"**{found}**",
        "",
        f"{bundle['name']} ({bundle['backbone']['name']}, {bundle['image_size']} px, "
        f"{bundle['precision']}), manifest {bundle['manifest_sha256'][:12]}",
        "",
        "| runtime | encode ms | decode ms | head ms | masks ms | image ms | prompts passed |",
        "|---|---|---|---|---|---|---|",
    ]
    timed = [part for part in parts if part.kind == "benchmark" and part.skipped is None]
    lines += [_row(part) for part in timed]
    for part in parts:
        if part.kind == "verify" and part.skipped is None:
            figures = ", ".join(f"{d['tensor']} {d['relative']:.1e}" for d in part.values)
            lines += ["", f"Verified: {part.runtime}, off by {figures} of the outputs' spread."]
    skipped = [part for part in parts if part.skipped is not None]
    if skipped:
        lines += ["", "Skipped:", ""]
        lines += [f"- {part.kind}, {part.runtime}: {part.skipped}" for part in skipped]
    return "\n".join(lines) + "\n"


def _row(part: Part) -> str:
    (row,) = part.values["contenders"]
    ms = {stage["stage"]: 1e3 * stage["seconds"]["median"] for stage in row["stages"]}
    masks = sum(ms.get(stage, 0.0) for stage in ("candidates", "nms", "clean+paint"))
    image = 1e3 * row["segmenting_seconds"]["median"]
    cells = [ms["encode"], ms["decode"], ms.get("head", 0.0), masks, image]
    figures = " | ".join(f"{value:.1f}" for value in cells)
    return f"| {part.runtime} | {figures} | {row['prompts_passed']:.0f} |"


def main(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or 'tiny'.")],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("gpu_report"),
    images: Annotated[list[str] | None, typer.Option("--image", help="Default: samples.")] = None,
    runtime: Annotated[list[str] | None, typer.Option(help="Default: all of them.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Of engines. Default: the card's.")] = None,
    build: Annotated[bool, typer.Option("--build/--no-build")] = True,
    points: Annotated[int, typer.Option(help="Grid points a side.")] = 32,
    prompt_batch: Annotated[int, typer.Option(help="Prompts in a decoder call.")] = 256,
    repeats: int = 5,
) -> None:
    """Run all that can run here, and write the report."""
    require_writable_folder(output)
    folder = find_bundle(bundle)
    manifest = read_manifest(folder)
    card, why = None, None
    try:
        card = present_card("cuda")
    except CellSeg1RtError as error:
        why = str(error)
    request = {
        "images": tuple(images or ()),
        "prompt_batch": prompt_batch,
        "repeats": repeats,
        "settings": {"points_per_side": points},
    }
    asked = Asked(folder, manifest, card, recipe, build, request)
    parts = parts_of(asked, runtime or list(RUNTIMES))
    described = describe_bundle(folder, manifest)
    report = {
        "format": FORMAT,
        "card": asdict(card) if card else None,
        "no_card": why,
        "machine": describe_machine(0),
        "versions": versions_of(PACKAGES),
        "bundle": described,
        "parts": [asdict(part) for part in parts],
    }
    text = table(card, why, described, parts)
    for name, content in (
        ("report.json", json.dumps(report, indent=2) + "\n"),
        ("report.md", text),
    ):
        with atomic_path(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    typer.echo(text)
    typer.echo(f"written: {output / 'report.json'}, {output / 'report.md'}", err=True)


if __name__ == "__main__":
    typer.run(main)
