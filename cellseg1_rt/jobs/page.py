"""The summary as a page: ``job.html``, one file that asks for nothing else and runs no script.

Imports the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cellseg1_rt.jobs.sheet import Picture
from cellseg1_rt.jobs.summary import Summary

__all__ = ["page_of_job"]

_FAILURES = 100
"""Failures the page names; the journal has all of them."""

_STYLE = Path(__file__).parents[1] / "evaluate" / "report.css"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page_of_job(summary: Summary, pictures: Sequence[Picture], folder: str) -> str:
    """The page's HTML.

    Parameters
    ----------
    pictures : what the sheet shows.
    folder : the job's folder, for the title.
    """
    style = _STYLE.read_text(encoding="utf-8")
    title = f"Job {escape(folder)}"
    part = "" if summary.shard is None else f", shard {summary.shard}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n"
        f"<p><strong>{summary.ended}</strong>{part}, {summary.started} to {summary.finished}</p>\n"
        + _tiles(summary)
        + _failures(summary)
        + _sheet(pictures, summary.done)
        + _settings(summary)
        + "</main>\n</body>\n</html>\n"
    )


def _tiles(summary: Summary) -> str:
    values = {
        "images": str(summary.images),
        "done": str(summary.done),
        "of these before": str(summary.before),
        "failed": str(summary.failed),
        "left": str(summary.left),
        "cells": str(summary.cells),
        "seconds": f"{summary.seconds:.1f}",
        "images/s": f"{summary.images_per_s:.2f}",
        "device at work": f"{summary.device_share:.0%}",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in values.items())
    return f'<dl class="tiles">{items}</dl>\n'


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return ""
    items = "".join(f"<li>{escape(one.error)}</li>" for one in summary.failures[:_FAILURES])
    rest = summary.failed - _FAILURES
    more = f"<p>{rest} more are in the journal.</p>\n" if rest > 0 else ""
    return f'<h2>Failed: {summary.failed}</h2>\n<ul class="failures">{items}</ul>\n{more}'


def _sheet(pictures: Sequence[Picture], done: int) -> str:
    if not pictures:
        return ""
    which = "" if len(pictures) == done else f": {len(pictures)} of {done}"
    figures = "".join(
        f'<figure><img src="{each.data_uri}" width="{each.width}" height="{each.height}" '
        f'alt="{escape(each.name)}: {each.cells} outlined cells."><figcaption>'
        f"<strong>{escape(each.name)}</strong> · {each.cells} cells</figcaption></figure>"
        for each in pictures
    )
    return f'<h2>Pictures{which}</h2>\n<div class="pictures">{figures}</div>\n'


def _settings(summary: Summary) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in summary.settings.items()
    )
    return f'<h2>Settings</h2>\n<div class="scroll"><table><tbody>{rows}</tbody></table></div>\n'
