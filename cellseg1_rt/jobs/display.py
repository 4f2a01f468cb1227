"""What a person sees of a running job: one live line on a terminal, a line now and then elsewhere.

Everything goes to stderr, and each failure exactly once. Imports rich inside the terminal's part.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.tally import Tally

__all__ = ["LOG_EVERY_S", "Report", "show_job"]

LOG_EVERY_S = 10.0
"""Seconds between two lines where there is no terminal."""

Report = Callable[[Outcome, Tally], None]
"""Called after each image."""


@contextmanager
def show_job(stream: TextIO | None = None) -> Iterator[Report]:
    """What to report each image to."""
    stream = stream or sys.stderr
    if stream.isatty():
        with _live_line(stream) as report:
            yield report
    else:
        yield _logger(stream)


def _logger(stream: TextIO) -> Report:
    last = time.monotonic()

    def report(outcome: Outcome, tally: Tally) -> None:
        nonlocal last
        if outcome.error is not None:
            print(f"error: {outcome.error}", file=stream, flush=True)
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            print(tally.line(), file=stream, flush=True)

    return report


@contextmanager
def _live_line(stream: TextIO) -> Iterator[Report]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=stream)
    shown: list[Tally] = []

    def render() -> Text:
        return Text(shown[0].line() if shown else "", no_wrap=True, overflow="ellipsis")

    with Live(console=console, get_renderable=render, refresh_per_second=4, transient=True):

        def report(outcome: Outcome, tally: Tally) -> None:
            shown[:] = [tally]
            if outcome.error is not None:
                console.print(Text(f"error: {outcome.error}", style="red"), soft_wrap=True)

        yield report
