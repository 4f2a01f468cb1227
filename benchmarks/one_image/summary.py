"""The study's tables and figure from its results.

    python benchmarks/one_image/summary.py results.jsonl [--svg figure.svg]

A run's figure is the mean AP@0.5 of the images it did not train on, and that of a choice of
training images the mean over its seeds. A domain's figure is the mean over its choices, never the
best; the spread is their standard deviation, their number stands in brackets. The packaged model,
which trains on nothing, is shown at the layers of crops that suit it best, so that training has the
most to beat.

The second table sets the runs of another method beside LoRAs of one image that are like them: of
the same seed, trained on one of the same images, judged on the images that the run is judged on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

METHODS = {
    "zero": "as packaged",
    "one": "LoRA, 1 image",
    "three": "LoRA, 3 images",
    "full": "all weights, 1 image",
}
COLOURS = {"zero": "#9aa5b1", "one": "#2166ac", "three": "#67a9cf", "full": "#ef8a62"}
ROW_PX, LEFT_PX, WIDTH_PX = 78, 250, 420


def main(
    results: Path,
    svg: Annotated[Path | None, typer.Option(help="Where the figure goes.")] = None,
) -> None:
    """Print the tables; draw the figure."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    runs = runs_by_domain(lines)
    print("| domain | " + " | ".join(METHODS.values()) + " |")
    print("|---|" + "---|" * len(METHODS))
    for domain, methods in runs.items():
        print(f"| {domain} | " + " | ".join(cell(methods.get(name, [])) for name in METHODS) + " |")
    others = [methods for domain, methods in runs.items() if not domain.startswith("fluo")]
    means = [
        [float(np.mean(of_choices(methods[name]))) for methods in others if name in methods]
        for name in METHODS
    ]
    row = " | ".join(f"{np.mean(m):.3f}" if len(m) == len(others) else "–" for m in means)
    print(f"| mean of the {len(others)} without fluorescence | {row} |")
    compared = [name for name in METHODS if name not in ("zero", "one")]
    heads = [f"{METHODS[name]} | likewise {METHODS['one']}" for name in compared]
    print("\n| domain | " + " | ".join(heads) + " |")
    print("|---|" + "---|---|" * len(compared))
    for domain in runs:
        cells = [beside_one_image(lines, domain, name) for name in compared]
        print(f"| {domain} | " + " | ".join(cells) + " |")
    if svg is not None:
        svg.write_text(figure(runs), encoding="utf-8")


def runs_by_domain(lines: list[dict]) -> dict[str, dict[str, list[list[float]]]]:
    """The figures of a choice's seeds, by domain, method and choice, in the order of the results.

    Of the methods that begin with ``zero`` the best is kept, as ``zero``.
    """
    found: dict[str, dict[str, dict[tuple[str, ...], list[float]]]] = {}
    for line in lines:
        choices = found.setdefault(line["domain"], {}).setdefault(line["method"], {})
        figure_of_run = float(np.mean(list(line["average_precision"].values())))
        choices.setdefault(tuple(line["train"]), []).append(figure_of_run)
    runs = {
        domain: {name: list(choices.values()) for name, choices in methods.items()}
        for domain, methods in found.items()
    }
    for methods in runs.values():
        untrained = [methods.pop(name) for name in list(methods) if name.startswith("zero")]
        if untrained:
            methods["zero"] = max(untrained)
    return runs


def of_choices(runs: list[list[float]]) -> list[float]:
    """A figure a choice: the mean over its seeds."""
    return [float(np.mean(seeds)) for seeds in runs]


def cell(runs: list[list[float]]) -> str:
    """Mean over choices, their spread and number."""
    if not runs:
        return "–"
    figures = of_choices(runs)
    spread = f" ± {np.std(figures):.3f}" if len(figures) > 1 else ""
    return f"{np.mean(figures):.3f}{spread} ({len(figures)})"


def beside_one_image(lines: list[dict], domain: str, method: str) -> str:
    """Two cells: the mean of a method's runs, and that of the LoRAs of one image like them."""
    pairs = []
    for run in lines:
        if (run["domain"], run["method"]) != (domain, method):
            continue
        likewise = [
            float(np.mean([line["average_precision"][name] for name in run["average_precision"]]))
            for line in lines
            if (line["domain"], line["method"], line["seed"]) == (domain, "one", run["seed"])
            and set(line["train"]) <= set(run["train"])
        ]
        if likewise:
            own = float(np.mean(list(run["average_precision"].values())))
            pairs.append((own, float(np.mean(likewise))))
    if not pairs:
        return "– | –"
    return " | ".join(f"{figure_of_side:.3f}" for figure_of_side in np.mean(pairs, axis=0))


def figure(runs: dict[str, dict[str, list[list[float]]]]) -> str:
    """Every run as a dot and every mean as a bar, a group of bars a domain."""
    height = ROW_PX * len(runs) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT_PX + WIDTH_PX + 40}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="#333">'
        f'<rect width="100%" height="100%" fill="white"/>'
    ]
    for share in np.arange(0, 1.01, 0.25):
        x = LEFT_PX + WIDTH_PX * share
        parts.append(f'<path d="M{x:.0f} 20V{height - 36}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.0f}" y="14" text-anchor="middle">{share:.2f}</text>')
    for row, (domain, methods) in enumerate(runs.items()):
        top = 28 + ROW_PX * row
        name = domain.rsplit("_", 1)[0].replace("_", " ")
        parts.append(f'<text x="{LEFT_PX - 8}" y="{top + 32}" text-anchor="end">{name}</text>')
        for place, method in enumerate(METHODS):
            choices, y = methods.get(method, []), top + 16 * place
            if not choices:
                continue
            length = WIDTH_PX * np.mean(of_choices(choices))
            parts.append(
                f'<rect x="{LEFT_PX}" y="{y}" width="{length:.1f}" height="13" '
                f'fill="{COLOURS[method]}"/>'
            )
            parts += [
                f'<circle cx="{LEFT_PX + WIDTH_PX * value:.1f}" cy="{y + 6.5}" r="2.2" '
                f'fill="#222" stroke="white" stroke-width="0.7"/>'
                for seeds in choices
                for value in seeds
            ]
    for place, (method, name) in enumerate(METHODS.items()):
        x = 20 + 165 * place
        parts.append(
            f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{COLOURS[method]}"/>'
        )
        parts.append(f'<text x="{x + 18}" y="{height - 14}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    typer.run(main)
