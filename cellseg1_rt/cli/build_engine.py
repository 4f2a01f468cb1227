"""``cellseg1-rt build-engine``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cellseg1_rt.engine.processes import Progress
    from cellseg1_rt.engine_files import EngineKey

__all__ = ["build_engine"]


def build_engine(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or 'tiny'.")],
    recipe: Annotated[
        str, typer.Option(help="rtx20, rtx30, rtx40, rtx50, datacenter, or a .toml file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder. Default: BUNDLE/engines, or your cache."),
    ] = None,
    flavor: Annotated[
        str | None, typer.Option(help="tensorrt-rtx or tensorrt, instead of the recipe's.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Compute capability (sm_89), instead of the recipe's; repeatable."),
    ] = None,
    one_plan: Annotated[
        bool, typer.Option("--one-plan", help="Several targets in one plan (tensorrt-rtx).")
    ] = False,
    prompt_batch: Annotated[
        int | None, typer.Option(help="Most prompts in one call, instead of the recipe's.")
    ] = None,
    card_memory: Annotated[
        float | None, typer.Option(help="The card's memory in GB, instead of the recipe's.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Engines built at a time.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Build again what is there.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the bundle's check; needs the card.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable, stable.")] = False,
) -> None:
    """Build a bundle's TensorRT engines for a family of cards. TensorRT-RTX needs no card here."""
    from json import dumps

    from cellseg1_rt.bundles import find_bundle
    from cellseg1_rt.engine.build import BuildOptions, build_engines
    from cellseg1_rt.engine.recipe import EngineRecipe
    from cellseg1_rt.engine.report import lines_of, report_of
    from cellseg1_rt.engine.targets import require_card
    from cellseg1_rt.recipes import read_recipe

    chosen = EngineRecipe.from_dict(read_recipe("engine", recipe)).updated(
        flavor=flavor,
        targets=tuple(target or ()),
        prompt_batch=prompt_batch,
        card_gbytes=card_memory,
    )
    folder = find_bundle(bundle)
    if verify:
        require_card(chosen)
    options = BuildOptions(output, one_plan, jobs, overwrite)
    try:
        with _progress() as progress:
            built = build_engines(folder, chosen, options, progress)
    except KeyboardInterrupt:
        print(
            "interrupted: nothing was left behind, and engines stay as they were", file=sys.stderr
        )
        raise typer.Exit(130) from None
    if verify:
        _verify(folder, chosen.flavor, built[0].engines["mask_head"].folder)
    if json:
        print(dumps([report_of(group, chosen) for group in built], indent=2))
        return
    for group in built:
        print("\n".join(lines_of(group, chosen)))
    folders = dict.fromkeys(str(engine.folder) for engine in built[0].engines.values())
    print(f"engines in {' and '.join(folders)}")


def _verify(bundle: Path, flavor: str, engines: Path) -> None:
    """Run the bundle's check on the card, and say on stderr how near its engines are."""
    from cellseg1_rt.backends.tensorrt import load_tensorrt
    from cellseg1_rt.contract import read_manifest

    manifest = read_manifest(bundle)
    loaded = load_tensorrt(bundle, manifest, flavor, folder=engines, check_again=True)
    for each in loaded.checked or ():
        print(
            f"{each.tensor}: within {each.relative:.1e} of float32's spread on {loaded.card.name}, "
            f"{each.allowed:.1e} allowed",
            file=sys.stderr,
        )


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar an engine on stderr where that is a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _key, _share: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(key: EngineKey, share: float) -> None:
            name = f"{key.graph} {'+'.join(key.targets)}"
            if key.digest not in tasks:
                tasks[key.digest] = bars.add_task(name, total=1.0)
            bars.update(tasks[key.digest], completed=share)

        yield show
