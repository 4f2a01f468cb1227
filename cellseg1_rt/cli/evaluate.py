"""``cellseg1-rt evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from cellseg1_rt.evaluate import Evaluation, Figures, ImageResult

_MOST_ROWS = 50
_WIDE = 120  # columns of a terminal that hold every figure beside a name
_WIDE_ONLY = ("AP@0.75", "TP", "F1")


def evaluate(
    pred: Annotated[
        Path, typer.Argument(help="Predicted labels: a file, or a folder such as segment writes.")
    ],
    true: Annotated[Path, typer.Argument(help="True labels: a file, or a folder; names pair.")],
    images: Annotated[
        Path | None,
        typer.Option(help="The images, by the same names, for the report's pictures."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable, stable.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a report into this .html file, replacing it.")
    ] = None,
) -> None:
    """Compare label maps with true ones: AP at IoU 0.5 to 0.95, and kinds of mistakes."""
    import sys
    from json import dumps

    from rich.console import Console
    from rich.progress import track

    from cellseg1_rt.errors import ConfigError
    from cellseg1_rt.evaluate import evaluate_folders
    from cellseg1_rt.evaluate.report import require_report_path, write_report
    from cellseg1_rt.files import require_writable_folder

    if images is not None and report is None:
        raise ConfigError("only used for a report", where="--images", fix="add --report FILE.html")
    if images is not None and not images.exists():
        raise ConfigError("not there", where="--images", got=images, expected="a folder or a file")
    if report is not None:
        require_report_path(report)
    stderr = Console(stderr=True)
    found = evaluate_folders(
        pred,
        true,
        progress=lambda pairs: track(
            pairs, "comparing", console=stderr, transient=True, disable=not stderr.is_terminal
        ),
    )
    failures = list(found.failures)
    if report is not None:
        require_writable_folder(report.parent)
        failures += write_report(report, found, images=images)
    if json:
        print(dumps(found.to_dict(), indent=2))
    else:
        _print_tables(found)
        if report is not None:
            print(f"report: {report}")
    if found.passed_over:
        print(
            f"note: passed over {len(found.passed_over)} files not called NAME_labels.* "
            f"beside ones that are, the first being {found.passed_over[0]}",
            file=sys.stderr,
        )
    for failure in failures:
        print(f"error: {failure.error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _print_tables(found: Evaluation) -> None:
    from rich.console import Console

    from cellseg1_rt.evaluate import THRESHOLDS

    total = len(found.images) + len(found.failures)
    overall = found.overall
    if overall is not None:
        console = Console()
        if not console.is_terminal:
            # A file or a pipe has no width to fold names for.
            console.width = _WIDE + max(len(image.pair.name) for image in found.images)
        console.print(_table(found.images, overall, wide=console.width >= _WIDE))
        if len(found.images) > _MOST_ROWS:
            print(f"shown: the {_MOST_ROWS} of {len(found.images)} images with the lowest AP@0.5")
        print("AP by IoU threshold, mean over images:")
        print("  ".join(f"{threshold:5.2f}" for threshold in THRESHOLDS))
        print("  ".join(f"{precision:5.3f}" for precision in overall.average_precision))
    print(f"{len(found.images)} of {total} images evaluated")


def _table(images: tuple[ImageResult, ...], overall: Figures, *, wide: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cellseg1_rt.evaluate.columns import COLUMNS

    columns = {head: write for head, write in COLUMNS.items() if wide or head not in _WIDE_ONLY}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("image", overflow="fold", min_width=8)
    for head in columns:
        table.add_column(head.replace("@", "\n@").replace(" ", "\n"), justify="right", no_wrap=True)
    worst = sorted(images, key=lambda image: image.figures.average_precision[0])[:_MOST_ROWS]
    for image in sorted(worst, key=lambda image: image.pair.name):
        # As Text, so that brackets in a name are no markup.
        table.add_row(Text(image.pair.name), *(write(image.figures) for write in columns.values()))
    table.add_section()
    table.add_row("all", *(write(overall) for write in columns.values()))
    return table
