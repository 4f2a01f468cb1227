"""Which files a command line means, and what their outputs are called.

Imports the standard library and the list of suffixes that can be read.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats import IMAGE_SUFFIXES

__all__ = ["OUTPUT_FORMATS", "Task", "find_images", "plan_tasks"]

OUTPUT_FORMATS = {
    "tif": "_labels.tif",
    "png": "_labels.png",
    "csv": "_cells.csv",
    "overlay": "_overlay.png",
}
"""Values of ``--format`` and what each appends to an image's stem."""


@dataclass(frozen=True)
class Task:
    """One image and the files that come of it, by format."""

    source: Path
    outputs: dict[str, Path]


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Files, folders (their images, not those of sub-folders) and globs, in the order given.

    A file that is named need not exist: that is this file's failure, not the job's.

    Raises
    ------
    ConfigError : if a folder or a glob holds no image.
    """
    found: list[Path] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if _is_image(file))
            wanted = f"a file ending in {', '.join(IMAGE_SUFFIXES)}"
        elif not path.exists() and glob.has_magic(str(item)):
            matches = sorted(Path(match) for match in glob.glob(str(item), recursive=True))
            matches = [match for match in matches if _is_image(match)]
            wanted = "a pattern that matches an image"
        else:
            found.append(path)
            continue
        if not matches:
            raise ConfigError("no images here", where=item, expected=wanted)
        found += matches
    return list(dict.fromkeys(found))


def plan_tasks(
    images: Iterable[Path], folder: Path, formats: Iterable[str], *, overwrite: bool
) -> list[Task]:
    """Name every output before anything is computed.

    Raises
    ------
    ConfigError : on an unknown format, two images that would write the same file, or an output
        that exists while ``overwrite`` is off.
    """
    chosen = list(dict.fromkeys(formats))
    for name in chosen:
        if name not in OUTPUT_FORMATS:
            raise ConfigError(
                "unknown format",
                where="--format",
                got=repr(name),
                expected=f"some of {', '.join(OUTPUT_FORMATS)}",
            )
    if not chosen:
        raise ConfigError("no format given", where="--format", expected=", ".join(OUTPUT_FORMATS))
    owners: dict[str, Path] = {}
    tasks = []
    for image in images:
        stem = _stem(image)
        if stem in owners:
            raise ConfigError(
                "two images would write the same files",
                where=folder / stem,
                got=f"{owners[stem]} and {image}",
                fix="segment them into different folders",
            )
        owners[stem] = image
        tasks.append(Task(image, {name: folder / (stem + OUTPUT_FORMATS[name]) for name in chosen}))
    taken = [path for task in tasks for path in task.outputs.values() if path.exists()]
    if taken and not overwrite:
        raise ConfigError(
            f"{len(taken)} of the outputs are there already",
            where=taken[0],
            fix="pass --overwrite to replace them, or choose another folder",
        )
    return tasks


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
