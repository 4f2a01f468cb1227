"""The command line: one module per command, one place that turns errors into lines and exit codes.

Imports typer only; what a command needs is imported inside its body, so every ``--help`` works on
the base install.
"""

from __future__ import annotations

import sys

import typer

from cellseg1_rt.cli.benchmark import benchmark
from cellseg1_rt.cli.build_engine import build_engine
from cellseg1_rt.cli.demo import demo
from cellseg1_rt.cli.evaluate import evaluate
from cellseg1_rt.cli.export import export
from cellseg1_rt.cli.fetch_sam import fetch_sam
from cellseg1_rt.cli.info import info
from cellseg1_rt.cli.merge import merge
from cellseg1_rt.cli.pretrain import pretrain
from cellseg1_rt.cli.segment import segment
from cellseg1_rt.cli.train import train
from cellseg1_rt.errors import CellSeg1RtError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cellseg1-rt",
    help="Annotate one microscope image, segment a million.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    demo,
    segment,
    train,
    merge,
    export,
    build_engine,
    evaluate,
    benchmark,
    pretrain,
    fetch_sam,
    info,
)
for command in _COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line. Exit code 0 done, 1 inputs failed, 2 configuration, 130 interrupted."""
    try:
        app()
    except CellSeg1RtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a lost drive: no traceback helps with those
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
