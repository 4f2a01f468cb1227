"""``cellseg1-rt fetch-sam``: an official SAM checkpoint, checked and resumable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellseg1_rt.fetch import Progress

__all__ = ["fetch_sam"]


def fetch_sam(
    name: Annotated[str, typer.Argument(help="vit_h, vit_l or vit_b.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to put the checkpoint into.")
    ] = Path("."),
    base_url: Annotated[
        str | None,
        typer.Option(envvar="CELLSEG1_RT_SAM_URL", hidden=True, help="A mirror of Meta's server."),
    ] = None,
) -> None:
    """Fetch an official SAM checkpoint, going on where an earlier attempt stopped."""
    from cellseg1_rt import fetch

    with _progress() as progress:
        path = fetch.fetch_sam(name, output, base_url, progress)
    typer.echo(path)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on stderr where that is a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("fetch", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
