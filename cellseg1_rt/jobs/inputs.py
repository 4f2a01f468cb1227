"""Which files a command line means, what their outputs are called, and whose shard they are.

Imports the standard library and the lists of suffixes that can be read and written.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats import IMAGE_SUFFIXES
from cellseg1_rt.formats.outputs import OUTPUT_SUFFIXES

__all__ = ["Input", "Shard", "Task", "find_images", "find_inputs", "parse_shard", "plan_tasks"]


@dataclass(frozen=True)
class Input:
    """An image file, and its path relative to the input it was found by, with ``/`` in it.

    For a folder that is relative to the folder; for a glob, to the part before the first wildcard;
    for a file, its name.
    """

    path: Path
    relative: str


@dataclass(frozen=True)
class Task:
    """One image and the files that come of it.

    Attributes
    ----------
    name : the image's name without suffix, which its outputs begin with; unique in a job.
    source : the image.
    outputs : by format.
    """

    name: str
    source: Path
    outputs: dict[str, Path]


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count`` parts of a job."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def part(self) -> str:
        """What the names of its own files end in, before their suffix: ``-2of4``."""
        return f"-{self.index}of{self.count}"

    def holds(self, relative: str) -> bool:
        """Whether an image is of this part.

        That depends on its path below the input and on nothing else (SHA-256 of its UTF-8, modulo
        ``count``), so files that are added or taken away move no other.
        """
        digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """A part from ``i/n``.

    Raises
    ------
    ConfigError : if it is not of that form, or i is not within 1..n.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return Shard(int(index), int(count))
    raise ConfigError(
        "not a shard", where="--shard", got=repr(text), expected="i/n with i from 1 to n, as in 2/4"
    )


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The paths of ``find_inputs``."""
    return [image.path for image in find_inputs(inputs)]


def find_inputs(inputs: Iterable[str | Path]) -> list[Input]:
    """Files, folders (their images, not those of sub-folders) and globs, in the order given.

    A file that is named need not exist: that is this file's failure, not the job's.

    Raises
    ------
    ConfigError : if a folder or a glob holds no image.
    """
    found: dict[Path, Input] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            root, matches = path, sorted(file for file in path.iterdir() if _is_image(file))
            wanted = f"a file ending in {', '.join(IMAGE_SUFFIXES)}"
        elif not path.exists() and glob.has_magic(str(item)):
            root = _before_wildcards(path)
            matches = sorted(Path(match) for match in glob.glob(str(item), recursive=True))
            matches = [match for match in matches if _is_image(match)]
            wanted = "a pattern that matches an image"
        else:
            root, matches = path.parent, [path]
            wanted = ""
        if not matches:
            raise ConfigError("no images here", where=item, expected=wanted)
        for match in matches:
            found.setdefault(match, Input(match, match.relative_to(root).as_posix()))
    return list(found.values())


def plan_tasks(
    inputs: Iterable[Input], folder: Path, formats: Iterable[str], shard: Shard | None = None
) -> list[Task]:
    """Name every output before anything is computed.

    Parameters
    ----------
    inputs : all images of the job.
    folder : where outputs go.
    formats : keys of ``OUTPUT_SUFFIXES``.
    shard : the part to plan; None is all.

    Returns
    -------
    A task an image, in their order. Where images and results share a folder, what would be the
    result of another image is not taken for an image.

    Raises
    ------
    ConfigError : on an unknown format, or two images that would write the same file, in this shard
        or in another.
    """
    chosen = _checked_formats(formats)
    inputs = list(inputs)
    results = _results_among(inputs, folder, chosen)
    owners: dict[str, Path] = {}
    tasks = []
    for image in inputs:
        stem = _stem(image.path)
        if image in results:
            continue
        if stem in owners:
            raise ConfigError(
                "two images would write the same files",
                where=folder / stem,
                got=f"{owners[stem]} and {image.path}",
                fix="segment them into different folders",
            )
        owners[stem] = image.path
        if shard is None or shard.holds(image.relative):
            outputs = {name: folder / (stem + OUTPUT_SUFFIXES[name]) for name in chosen}
            tasks.append(Task(stem, image.path, outputs))
    return tasks


def _results_among(inputs: list[Input], folder: Path, formats: list[str]) -> set[Input]:
    """Inputs in the output folder that carry the name of another input's output."""
    inside = [image for image in inputs if image.path.parent.absolute() == folder.absolute()]
    names = {_stem(image.path) + OUTPUT_SUFFIXES[name] for image in inputs for name in formats}
    return {image for image in inside if image.path.name in names}


def _checked_formats(formats: Iterable[str]) -> list[str]:
    chosen = list(dict.fromkeys(formats))
    for name in chosen:
        if name not in OUTPUT_SUFFIXES:
            raise ConfigError(
                "unknown format",
                where="--format",
                got=repr(name),
                expected=f"some of {', '.join(OUTPUT_SUFFIXES)}",
            )
    if not chosen:
        raise ConfigError("no format given", where="--format", expected=", ".join(OUTPUT_SUFFIXES))
    return chosen


def _before_wildcards(pattern: Path) -> Path:
    root = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        if glob.has_magic(part):
            break
        root /= part
    return root


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
