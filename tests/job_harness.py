"""Jobs with a device that needs no model: to be run, killed and gone on with in real processes.

As a script, ``python job_harness.py INPUTS FOLDER RECIPE.json``, with a recipe as ``run_recipe``
takes it, it runs one job. ``kill_at_each_call`` forks such a job again and again, so that imports
are paid once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.jobs.folder import Mode
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.signals import stop_on_signals
from cellseg1_rt.results import Cells, Result

SETTINGS = {"score": 0.8, "formats": ["csv", "tif"]}
CALLS = ("fsync", "replace")


def segment_bright(rgb: np.ndarray) -> Result:
    """Bright pieces as cells."""
    labels, count = ndimage.label(rgb[..., 0] > 127)
    index = np.arange(1, count + 1)
    boxes = [
        (box[1].start, box[0].start, box[1].stop - 1, box[0].stop - 1)
        for box in ndimage.find_objects(labels)
    ]
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, index)).reshape(count, 2)
    cells = Cells(
        label=index.astype(np.int32),
        area_px=np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.int64),
        box_xyxy=np.array(boxes, np.int32).reshape(count, 4),
        centroid_xy=centres[:, ::-1],
        score=np.full(count, 0.9, np.float32),
        stability=np.full(count, 0.7, np.float32),
        point_xy=centres[:, ::-1].astype(np.float32),
    )
    return Result(labels.astype(np.uint16), cells)


def write_images(folder: Path, count: int, seed: int = 3) -> list[Path]:
    """PNG files with some bright squares, each with another."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        pixels = rng.integers(0, 60, (31, 37)).astype(np.uint8)
        for y, x in rng.integers(2, 22, (3, 2)):
            pixels[y : y + 5, x : x + 7] = 255
        paths.append(folder / f"image{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def small_samples(folder: Path, count: int) -> Path:
    """A new folder with some of the packaged images, each side a quarter."""
    folder.mkdir()
    for path in sorted((SAMPLES / "images").iterdir())[:count]:
        image = Image.open(path)
        image.resize((image.width // 4, image.height // 4)).save(folder / path.name)
    return folder


def run(
    inputs: Path,
    folder: Path,
    *,
    mode: Mode = Mode.GO_ON,
    formats: tuple[str, ...] = ("tif", "csv"),
    workers: int = 1,
    device: Any = segment_bright,
    stop: threading.Event | None = None,
    report: Any = lambda outcome, tally: None,
    shard: Any = None,
    settings: dict[str, Any] = SETTINGS,
    resize: int | None = None,
) -> Any:
    """One run of a job over a folder of images."""
    tasks = plan_tasks(find_inputs([inputs]), folder, formats, shard)
    job = Job(tasks, folder, settings, resize, shard, mode, workers)
    return run_job(job, [device], stop=stop or threading.Event(), report=report)


def outputs_in(folder: Path) -> dict[str, bytes]:
    """All that is in a job's folder but journal and summary; names that begin with a dot too."""
    own = ("journal", "job")
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(own)
    }


def lines_of(folder: Path, name: str = "journal.jsonl") -> list[dict[str, Any]]:
    """The journal's lines but the first."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def done_names(folder: Path) -> list[str]:
    """The image of every line that says done."""
    return sorted(line["name"] for line in lines_of(folder) if line["error"] is None)


def run_in_child(inputs: Path, folder: Path, kill_before: int | None = None, **options: Any) -> int:
    """Fork, run a job there and give the wait status.

    ``kill_before`` is the number, from 0, of the flush or rename at whose beginning the child kills
    itself. Flushes are left out: for a process that is killed they make no difference.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0
    lock = threading.Lock()

    def counted(call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            nonlocal count
            with lock:
                if count == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return None if call is original["fsync"] else call(*arguments)

        return wrapped

    original = {name: getattr(os, name) for name in CALLS}
    for name in CALLS:
        setattr(os, name, counted(original[name]))
    try:
        run(inputs, folder, **options)
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def kill_at_each_call(inputs: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Kill a job at every flush and rename, go on with it each time, and say what came of it."""
    cv2.setNumThreads(1)  # threads of its own would not survive a fork
    run(inputs, folder / "whole")  # here, so that all is imported before the first fork
    whole = outputs_in(folder / "whole")
    names = done_names(folder / "whole")
    report: dict[str, Any] = {"kills": 0, "wrong": [], "images": names}
    for number in range(10_000):
        target = folder / f"killed{number}"
        status = run_in_child(inputs, target, number, workers=workers)
        if status == 0:
            break
        report["kills"] += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        went_on = run_in_child(inputs, target, workers=workers)
        if went_on or outputs_in(target) != whole or done_names(target) != names:
            report["wrong"].append([number, status, went_on, sorted(outputs_in(target))])
        shutil.rmtree(target)
    return report


def main() -> None:
    inputs, folder, recipe = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    if "kill_at_each_call" in recipe:
        print(json.dumps(kill_at_each_call(inputs, folder, recipe["kill_at_each_call"])))
        return

    def slow(rgb: np.ndarray) -> Result:
        print("segmenting", flush=True)
        time.sleep(recipe["segment_s"])
        return segment_bright(rgb)

    with stop_on_signals() as stop:
        summary = run(inputs, folder, device=slow, stop=stop)
    print(json.dumps({"ended": summary.ended, "left": summary.left}))


if __name__ == "__main__":
    main()
