"""AP of a bundle on folders of real images, a table row a folder.

    python benchmarks/domains.py DATA [-m tiny] [--crops 0] [--json out.json]

DATA holds one folder a domain, each with ``images/`` and ``labels/`` (same stems). Images go
through ``Model.segment``, which is what the command ``segment`` runs; labels are of native size.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import cellseg1_rt
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.formats import read_labels

THRESHOLDS = (0.5, 0.75, 0.9)


def main(
    data: Path,
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    crops: int = 0,
    only: Annotated[str, typer.Option(help="Glob of domain folders.")] = "*",
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print AP@0.5, 0.75 and 0.9 for each domain, averaged over its images."""
    loaded = cellseg1_rt.load(model, crops=crops)
    print(f"{'domain':42} {'images':>6} " + " ".join(f"AP@{t:<5}" for t in THRESHOLDS) + " s/image")
    rows = {}
    for domain in sorted(path for path in data.glob(only) if (path / "images").is_dir()):
        scores, seconds = [], []
        for path in sorted((domain / "images").iterdir()):
            truth = read_labels(next((domain / "labels").glob(f"{path.stem}.*")))
            started = time.perf_counter()
            result = loaded.segment(cellseg1_rt.read_image(path).pixels, name=path)
            seconds.append(time.perf_counter() - started)
            scores.append([average_precision(result.labels, truth, t) for t in THRESHOLDS])
        means = np.mean(scores, axis=0)
        rows[domain.name] = {
            "images": len(scores),
            "average_precision": {
                str(t): round(float(v), 4) for t, v in zip(THRESHOLDS, means, strict=True)
            },
            "median_seconds": round(float(np.median(seconds)), 2),
        }
        print(
            f"{domain.name:42} {len(scores):6} "
            + " ".join(f"{value:8.3f}" for value in means)
            + f" {np.median(seconds):7.1f}",
            flush=True,
        )
    nuclei = [row["average_precision"]["0.5"] for n, row in rows.items() if "fluo_nuclei" in n]
    if nuclei:
        print(f"mean AP@0.5 of the {len(nuclei)} fluo_nuclei domains: {np.mean(nuclei):.3f}")
    if json_path is not None:
        report = {
            "model": model,
            "manifest_sha256": sha256_of_file(loaded.bundle / "manifest.json"),
            "crops": crops,
            "runtime": loaded.choice.runtime,
            "cellseg1_rt": cellseg1_rt.__version__,
            "machine": platform.machine(),
            "domains": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
