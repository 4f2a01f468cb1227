"""Train on one image, test on the others of its kind: real images, every choice, several seeds.

    python benchmarks/one_image/study.py DATA results.jsonl [--only 'GLOB,…'] [--methods zero,one,…]

DATA holds one folder a domain, each with ``images/`` and ``labels/`` (same stems). A run is a
domain, a method, the images it trains on and a seed; it is a line of the results, and one that is
there already is not made again, so the study can be stopped and gone on with.

Methods: ``zero``, ``zero_crops1`` and ``zero_crops2`` (the packaged model as it is, with 0, 1 and 2
layers of crops), ``one`` (a LoRA on one image), ``three`` (a LoRA on three, where at least four are
there, with a third of the passes), ``full`` (all weights of the same model on one image, the
control). What is trained is merged, exported and segmented with as ``train --bundle`` does it, its
choice of crops included.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Annotated

import torch
import typer
from full_tuning import tune_all_weights

import cellseg1_rt
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
from cellseg1_rt.export.merge import merge_files
from cellseg1_rt.formats import read_labels
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.runtime.model import Model
from cellseg1_rt.train.crops_for_cells import with_crops_for_cells
from cellseg1_rt.train.lora_choices import SamSource, TrainOptions, find_sam
from cellseg1_rt.train.lora_files import train_files
from cellseg1_rt.train.lora_inputs import describe_images, pair_files, read_training_image
from cellseg1_rt.train.lora_recipe import LoraRecipe

DOMAINS = (
    "stained_purple_on_white*,brightfield_cytology*,phase_mammalian*,bacteria_phase*,he_tissue*,"
    "fluo_nuclei_tissue*,fluo_embryo*"
)
ZERO_CROPS = {"zero": 0, "zero_crops1": 1, "zero_crops2": 2}
METHODS = (*ZERO_CROPS, "one", "full", "three")


@dataclass(frozen=True)
class Run:
    """One training, and the test of it on all other images of the domain."""

    domain: str
    method: str
    train: tuple[str, ...]
    seed: int

    def matches(self, line: dict[str, object]) -> bool:
        """Whether a line of the results is of this run."""
        return all(
            line[name] == (list(value) if name == "train" else value)
            for name, value in asdict(self).items()
        )


def main(
    data: Path,
    results: Path,
    only: Annotated[str, typer.Option(help="Comma-separated: globs of folders.")] = DOMAINS,
    methods: str = ",".join(METHODS),
    seeds: int = 3,
    recipe: Annotated[str, typer.Option(help="Training recipe.")] = "quick",
    runtime: Annotated[str, typer.Option(help="What segments the test images.")] = "auto",
    precision: Annotated[str, typer.Option(help="In which it segments them.")] = "bundle",
    threads: Annotated[int, typer.Option(help="Of training and segmenting; 0: all cores.")] = 0,
) -> None:
    """Make the runs that are missing from the results."""
    lines = results.read_text().splitlines() if results.exists() else []
    done = [json.loads(line) for line in lines]
    settings = LoraRecipe.from_dict(read_recipe("train", recipe))
    if threads:
        torch.set_num_threads(threads)
    for run in runs_of(data, only, methods.split(","), seeds):
        if any(run.matches(line) for line in done):
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            bundle, facts = bundle_of(run, data / run.domain, settings, Path(folder))
            trained_s = time.perf_counter() - started
            how = {"runtime": runtime, "precision": precision, "threads": threads}
            if run.method in ZERO_CROPS:
                how["crops"] = ZERO_CROPS[run.method]
            model = cellseg1_rt.load(bundle, **how)
            scores = test(model, data / run.domain, run.train)
        line = {
            **asdict(run),
            "recipe": recipe,
            "crops": model.settings.crops,
            **facts,
            "train_s": round(trained_s, 1),
            "average_precision": scores,
        }
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        mean = sum(scores.values()) / len(scores)
        print(
            f"{run.domain:40} {run.method:5} {'+'.join(run.train)} seed {run.seed}: {mean:.3f}",
            flush=True,
        )


def runs_of(data: Path, only: str, methods: list[str], seeds: int) -> Iterator[Run]:
    """Every choice of training images and every seed, the domains in turn, cheap methods first."""
    folders = [folder for pattern in only.split(",") for folder in sorted(data.glob(pattern))]
    for method in (name for name in METHODS if name in methods):
        for seed in range(1 if method in ZERO_CROPS else seeds):
            turns = zip_longest(*(choices(folder, trained_on(method)) for folder in folders))
            for chosen in turns:
                for folder, names in zip(folders, chosen, strict=True):
                    if names is not None:
                        yield Run(folder.name, method, names, seed)


def choices(folder: Path, count: int) -> list[tuple[str, ...]]:
    """Every choice of ``count`` of a domain's images that leaves one to test on."""
    names = sorted(path.stem for path in (folder / "images").iterdir())
    return list(combinations(names, count)) if count < len(names) else []


def trained_on(method: str) -> int:
    """How many images a method trains on."""
    return 0 if method in ZERO_CROPS else 3 if method == "three" else 1


def bundle_of(
    run: Run, domain: Path, recipe: LoraRecipe, folder: Path
) -> tuple[Path | str, dict[str, object]]:
    """The bundle to test, and what is worth knowing of how it came about."""
    if run.method in ZERO_CROPS:
        return "tiny", {}
    for part in ("images", "labels"):
        (folder / part).mkdir()
        for name in run.train:
            (path,) = (domain / part).glob(f"{name}.*")
            (folder / part / path.name).symlink_to(path.resolve())
    source = find_sam("tiny", None)
    recipe = replace(recipe, seed=run.seed)
    merged, bundle = folder / "merged.safetensors", folder / "bundle"
    if run.method == "full":
        facts = tune_all_weights(source, folder, recipe, merged)
    else:
        facts = lora_on(source, folder, recipe, merged)
    exported = ExportRecipe.from_dict(read_recipe("export", "tiny"))
    images = [
        read_training_image(*pair) for pair in pair_files(folder / "images", folder / "labels")
    ]
    chosen, _ = with_crops_for_cells(
        exported.settings,
        describe_images(images),
        exported.image_size,
        recipe.least_width_px,
    )
    export_bundle(merged, bundle, replace(exported, settings=chosen))
    return bundle, facts


def lora_on(source: SamSource, folder: Path, recipe: LoraRecipe, merged: Path) -> dict[str, object]:
    """``cellseg1-rt train`` on the images of a folder, merged."""
    lora = folder / "lora.safetensors"
    epochs = recipe.schedule.epochs // len(list((folder / "images").iterdir()))
    trained = train_files(
        folder / "images",
        folder / "labels",
        lora,
        source,
        recipe,
        TrainOptions(device="cpu", precision="bf16", epochs=epochs),
    )
    merge_files(source.weights, lora, merged, source.backbone, recipe.data.image_size)
    return {"epoch": trained.epoch, "ended": trained.ended}


def test(model: Model, domain: Path, train: tuple[str, ...]) -> dict[str, float]:
    """AP@0.5 of each image that was not trained on."""
    scores = {}
    for path in sorted((domain / "images").iterdir()):
        if path.stem not in train:
            (truth,) = (domain / "labels").glob(f"{path.stem}.*")
            found = model.segment(cellseg1_rt.read_image(path).pixels, name=path).labels
            scores[path.stem] = round(average_precision(found, read_labels(truth)), 4)
    return scores


if __name__ == "__main__":
    typer.run(main)
