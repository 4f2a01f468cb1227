"""Labels in fp16 and bf16 against those in fp32, on real images, a table row a folder.

    python benchmarks/precision.py [DATA] [-m tiny] [--precision bf16] [--json out.json]

What is run are the functions that `export` types into the graphs, in PyTorch on the CPU, which
rounds the output of every operation to the precision: evidence that a runtime with float32 inside
could not give. Weights are the bundle's own. DATA holds one folder a domain, each with ``images/``;
without it the packaged samples are taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import cellseg1_rt
from cellseg1_rt.benchmarking.agreement import agreement_of
from cellseg1_rt.benchmarking.machine import describe_bundle, describe_machine, versions_of
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.model.pairs import load_bundle_sam
from cellseg1_rt.model.precision import DTYPES, in_precision
from cellseg1_rt.model.torch_backend import TorchBackend


def typed(model: cellseg1_rt.Model, precision: str) -> TorchBackend:
    """A bundle's own weights in a precision."""
    sam = load_bundle_sam(model.bundle, model.manifest)
    return TorchBackend(in_precision(sam, precision).eval())


def main(
    data: Annotated[Path | None, typer.Argument()] = None,
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    precision: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    only: Annotated[str, typer.Option(help="Glob of domain folders.")] = "*",
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print how far labels agree, for each domain and over all images."""
    loaded = cellseg1_rt.load(model, runtime="onnxruntime")
    asked = precision or ["fp16", "bf16"]
    backends = {"fp32": loaded.backend} | {name: typed(loaded, name) for name in asked}
    domains = sorted(data.glob(only)) if data is not None else [SAMPLES]
    labels: dict[str, dict[str, list[Any]]] = {}
    for domain in domains:
        held = labels[domain.name] = {name: [] for name in backends}
        for path in sorted((domain / "images").iterdir()):
            pixels = cellseg1_rt.read_image(path).pixels
            for name, backend in backends.items():
                loaded.backend = backend
                held[name].append(loaded.segment(pixels, name=path).labels)
        for name in asked:
            print(f"{domain.name:42} {name}  {agreement_of(held[name], held['fp32'])}", flush=True)
    rows = {
        domain: {name: vars(agreement_of(held[name], held["fp32"])) for name in asked}
        for domain, held in labels.items()
    }
    together = {
        name: agreement_of(
            *([m for held in labels.values() for m in held[p]] for p in (name, "fp32"))
        )
        for name in asked
    }
    for name, agreement in together.items():
        print(f"{'all images':42} {name}  {agreement}")
    if json_path is not None:
        report = {
            "bundle": describe_bundle(loaded.bundle, loaded.manifest),
            "machine": describe_machine(0),
            "versions": versions_of(("torch", "onnxruntime")),
            "dtypes": {name: str(DTYPES[name]) for name in asked},
            "all_images": {name: vars(agreement) for name, agreement in together.items()},
            "domains": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
