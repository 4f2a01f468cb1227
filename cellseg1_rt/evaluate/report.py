"""The report: one HTML file that asks for nothing else, with figures, plot, table and pictures.

Equal inputs give equal bytes. It can be read without script; script only sorts the table. What the
pictures show is ``pictures``, what the figures mean is ``figures`` and ``mistakes``.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError, ConfigError, InputError
from cellseg1_rt.evaluate.columns import COLUMNS
from cellseg1_rt.evaluate.figures import Figures
from cellseg1_rt.evaluate.folders import (
    Evaluation,
    Failure,
    ImageResult,
    files_by_name,
    read_pair,
)
from cellseg1_rt.evaluate.pictures import KINDS, Outlines, Picture, picture_from_labels
from cellseg1_rt.evaluate.plot import plot_of_precision
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats import read_image

__all__ = ["PICTURES", "require_report_path", "write_report"]

PICTURES = 12
"""Images that get a picture: those with the lowest AP."""

_HERE = Path(__file__).parent
_MEANINGS = {
    "AP@0.5, AP@0.75": "true positives / (true positives + false positives + false negatives) at "
    "that IoU, from a maximum matching. Over several images: the mean of theirs.",
    "mean AP": "the mean of AP over the IoU thresholds 0.5, 0.55 … 0.95.",
    "TP, FP, FN, F1, IoU": "matched, unmatched predicted and unmatched true cells at IoU 0.5; "
    "2·TP / (2·TP + FP + FN); the mean IoU of matched cells.",
    "missed": "a true cell without a match that is neither split nor part of a merged cell.",
    "false": "a predicted cell without a match that is neither merged nor part of a split cell.",
    "split": "a true cell in which two or more predicted cells mostly lie, matched or not.",
    "merged": "a predicted cell in which two or more true cells mostly lie, matched or not.",
}


def require_report_path(path: Path) -> None:
    """Refuse what is not a report's name, before anything is computed.

    Raises
    ------
    ConfigError : if ``path`` is a folder or does not end in .html or .htm.
    """
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            "not a name for a report",
            where=path,
            got="a folder" if path.is_dir() else repr(path.suffix),
            expected="a file ending in .html",
        )


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    images: str | Path | None = None,
    pictures: int = PICTURES,
) -> tuple[Failure, ...]:
    """Write the report of an evaluation, replacing what is at ``path``.

    Parameters
    ----------
    images : folder of the images by the names of the label files, or the one image where two files
        were compared. None draws the label maps alone.
    pictures : images that get a picture, those with the lowest AP first. All get a row.

    Returns
    -------
    Images that were to be shown and could not be read; their label maps are shown instead.

    Raises
    ------
    ConfigError : if ``path`` is no name for a report.
    """
    path = Path(path)
    require_report_path(path)
    shown = sorted(evaluation.images, key=_worst_first)[:pictures]
    files = None if images is None else _image_files(Path(images), evaluation)
    figures, failures = [], []
    for number, result in enumerate(shown, start=1):
        html, failure = _figure(number, result, files)
        figures.append(html)
        failures += [failure] if failure else []
    page = _page(evaluation, {result.pair.name: i for i, result in enumerate(shown, 1)}, figures)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return tuple(failures)


def _worst_first(result: ImageResult) -> tuple[float, float, str]:
    figures = result.figures
    return figures.average_precision[0], figures.mean_average_precision, result.pair.name


def _image_files(images: Path, evaluation: Evaluation) -> dict[str, list[Path]]:
    if images.is_dir():
        return files_by_name(images)
    return {result.pair.name: [images] for result in evaluation.images[:1]}


def _figure(
    number: int, result: ImageResult, files: dict[str, list[Path]] | None
) -> tuple[str, Failure | None]:
    name, figures = result.pair.name, result.figures
    image, failure, note = None, None, ""
    pred, true = read_pair(result.pair)
    try:
        image = None if files is None else _read_image(name, files)
        picture = picture_from_labels(pred, true, image)
    except CellSeg1RtError as error:
        failure = Failure(name, error)
        picture = picture_from_labels(pred, true)
        note = f"The image cannot be shown: {error}."
    if image is not None and image.shape[:2] != true.shape and failure is None:
        note = "The image has another size than its labels and is stretched to theirs."
    told = (
        f"{figures.true} true and {figures.predicted} predicted cells, {figures.tp} matched, "
        f"{figures.missed} missed, {figures.false} false, {figures.split} split, "
        f"{figures.merged} merged"
    )
    html = (
        f'<figure id="picture-{number}"><div class="layers">'
        f'<img src="{picture.data_uri}" width="{picture.width}" height="{picture.height}" '
        f'alt="{escape(name)}: {told}.">{_layers(number, picture)}</div>'
        f"<figcaption><strong>{escape(name)}</strong> · AP@0.5 {COLUMNS['AP@0.5'](figures)}<br>"
        f'<span class="quiet">{told}. {escape(note)}</span></figcaption></figure>'
    )
    return html, failure


def _read_image(name: str, files: dict[str, list[Path]]) -> NDArray[Any]:
    paths = files.get(name, [])
    if len(paths) != 1:
        raise InputError(
            "not one image of this name",
            where=name,
            got=", ".join(path.name for path in paths) or "none",
            expected="one in the folder of images",
        )
    return read_image(paths[0]).pixels


def _layers(number: int, picture: Picture) -> str:
    layers = "".join(
        f'<g class="{kind}">{_layer(f"c{number}-{kind}", outlines, KINDS[kind])}</g>'
        for kind, outlines in picture.outlines.items()
    )
    return (
        f'<svg class="lines" viewBox="0 0 {picture.width} {picture.height}" '
        f'aria-hidden="true">{layers}</svg>'
    )


def _layer(name: str, outlines: Outlines, letters: str) -> str:
    """One kind of cells: parts below, each path once as a halo and once as a line, then letters."""
    html = ""
    for data, part in ((outlines.parts, " part"), (outlines.cells, "")):
        if data:
            # A path is written once and drawn twice.
            html += (
                f'<defs><path id="{name}{part[1:]}" d="{data}"/></defs>'
                f'<use href="#{name}{part[1:]}" class="halo{part}"/>'
                f'<use href="#{name}{part[1:]}" class="line{part}"/>'
            )
    return html + "".join(f'<text x="{x}" y="{y}">{letters}</text>' for x, y in outlines.letters_at)


def _page(evaluation: Evaluation, pictured: dict[str, int], figures: Sequence[str]) -> str:
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    # The page may load nothing and run nothing but its own script, whatever a file is called.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    )
    title = f"{escape(str(evaluation.pred))} against {escape(str(evaluation.true))}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>Evaluation: {title}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Evaluation</h1>\n<p>Predicted labels <strong>{escape(str(evaluation.pred))}</strong> "
        f"against true labels <strong>{escape(str(evaluation.true))}</strong></p>\n"
        + _overview(evaluation)
        + _failures(evaluation)
        + _pictures(figures, len(evaluation.images))
        + _table(evaluation, pictured)
        + _meanings()
        + f"</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _overview(evaluation: Evaluation) -> str:
    overall = evaluation.overall
    if overall is None:
        return "<p>No image could be evaluated.</p>\n"
    tiles = {"images": str(len(evaluation.images))}
    tiles |= {name: write(overall) for name, write in COLUMNS.items()}
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    plot = plot_of_precision([image.figures for image in evaluation.images])
    band = " The band holds the middle half of the images." if "band" in plot else ""
    return (
        f'<dl class="tiles">{items}</dl>\n<h2>AP over IoU thresholds</h2>\n{plot}\n'
        f'<p class="quiet">Mean over the images.{band}</p>\n'
    )


def _failures(evaluation: Evaluation) -> str:
    if not evaluation.failures:
        return ""
    items = "".join(f"<li>{escape(str(one.error))}</li>" for one in evaluation.failures)
    return (
        f'<h2>Not evaluated: {len(evaluation.failures)}</h2>\n<ul class="failures">{items}</ul>\n'
    )


def _pictures(figures: Sequence[str], images: int) -> str:
    if not figures:
        return ""
    which = "" if len(figures) == images else f", the {len(figures)} of {images} with the lowest AP"
    keys = "".join(
        f'<li><label><input type="checkbox" id="show-{kind}" checked>'
        f'<svg class="lines" viewBox="0 0 46 30" aria-hidden="true"><g class="{kind}">'
        f"{_layer(f'key-{kind}', Outlines('M5 5h36v20h-36z', '', ((23, 15),)), letters)}</g></svg>"
        f"{kind}</label></li>"
        for kind, letters in KINDS.items()
    )
    return (
        f'<h2>Pictures{which}</h2>\n<ul class="legend" aria-label="Cells to show">{keys}</ul>\n'
        '<p class="quiet">Thin lines inside a split cell are the predicted parts, inside a merged '
        "cell the true ones.</p>\n"
        f'<div class="pictures">{"".join(figures)}</div>\n'
    )


def _table(evaluation: Evaluation, pictured: dict[str, int]) -> str:
    if not evaluation.images:
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("image", *COLUMNS))
    rows = "\n".join(
        _row(image.pair.name, image.figures, pictured.get(image.pair.name))
        for image in evaluation.images
    )
    return (
        '<h2 id="images">Images</h2>\n'
        '<div class="scroll" role="region" aria-labelledby="images" tabindex="0">'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>'
        "</div>\n"
    )


def _row(name: str, figures: Figures, picture: int | None) -> str:
    shown = escape(name)
    if picture is not None:
        shown = f'<a href="#picture-{picture}">{shown}</a>'
    cells = "".join(f"<td>{write(figures)}</td>" for write in COLUMNS.values())
    return f'<tr><th scope="row">{shown}</th>{cells}</tr>'


def _meanings() -> str:
    items = "".join(
        f"<dt><strong>{name}</strong></dt><dd>{text}</dd>" for name, text in _MEANINGS.items()
    )
    return f"<h2>What the figures mean</h2>\n<dl>{items}</dl>\n"
