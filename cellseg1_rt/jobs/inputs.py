"""Which files a command line means, what their outputs are called, and whose shard they are.

Opens no image: which planes are in one is for ``cellseg1_rt.jobs.stacks`` to find out. Imports the
standard library, and the lists of suffixes that can be read and written.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats import IMAGE_SUFFIXES, Image, read_image
from cellseg1_rt.formats.outputs import OUTPUT_SUFFIXES
from cellseg1_rt.formats.planes import PlaneAddress, PlaneSource
from cellseg1_rt.formats.stacks import ZARR_SUFFIXES, is_zarr_folder, open_plane
from cellseg1_rt.jobs.lists import paths_in_list

__all__ = [
    "Input",
    "Shard",
    "Task",
    "find_images",
    "find_inputs",
    "parse_shard",
    "plan_tasks",
]

_LONGEST_FIRST = sorted((*IMAGE_SUFFIXES, *ZARR_SUFFIXES), key=len, reverse=True)


@dataclass(frozen=True)
class Input:
    """An image file or Zarr folder, and its path relative to the input it was found by.

    Attributes
    ----------
    path : the file or folder.
    relative : with ``/`` in it. For a folder of images that is relative to the folder; for a glob,
        to the part before the first wildcard; for a file, its name. Of a plane, the plane's name
        follows: ``stack.tif/z003``.
    plane : which plane of it; None where it is taken for a single image.
    """

    path: Path
    relative: str
    plane: PlaneAddress | None = None

    @property
    def stem(self) -> str:
        """What the names of its outputs begin with."""
        stem = _stem(self.path)
        return f"{stem}_{self.plane.name}" if self.plane and self.plane.name else stem


@dataclass(frozen=True)
class Task:
    """One image and the files that come of it.

    Attributes
    ----------
    name : the image's name without suffix, which its outputs begin with; unique in a job.
    source : the image's file, or Zarr folder.
    outputs : by format.
    plane : which plane of the file; None where it holds one.
    channels : to keep, in this order; None keeps all.
    """

    name: str
    source: Path
    outputs: dict[str, Path]
    plane: PlaneAddress | None = None
    channels: tuple[int | str, ...] | None = None

    @property
    def where(self) -> str:
        """What an error calls the image."""
        told = "" if self.plane is None else str(self.plane)
        return f"{self.source} ({told})" if told else str(self.source)

    def read(self) -> Image:
        """The image as stored; raises as ``read_image`` does."""
        return read_image(self.source, channels=self.channels, plane=self.plane)

    def open(self) -> AbstractContextManager[PlaneSource]:
        """The image window by window; raises as ``open_plane`` does."""
        return open_plane(self.source, self.plane, self.channels)


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

    A file that is named need not exist: that is this file's failure, not the job's. A Zarr folder
    is one image. ``@list.txt`` stands for the lines of that text file (``paths_in_list``).

    Raises
    ------
    ConfigError : if a folder or a glob holds no image, or a list cannot be read or is empty.
    """
    found: dict[Path, Input] = {}
    for item in inputs:
        for each in paths_in_list(item) if str(item).startswith("@") else [item]:
            for image in _found_by(each):
                found.setdefault(image.path, image)
    return list(found.values())


def _found_by(item: str | Path) -> list[Input]:
    path = Path(item)
    if path.is_dir() and not is_zarr_folder(path):
        root, matches = path, sorted(file for file in path.iterdir() if _is_image(file))
        wanted = f"a file ending in {', '.join(IMAGE_SUFFIXES)}, or a Zarr folder"
    elif not path.exists() and glob.has_magic(str(item)):
        root = _before_wildcards(path)
        matches = sorted(Path(match) for match in glob.glob(str(item), recursive=True))
        matches = [match for match in matches if _is_image(match)]
        wanted = "a pattern that matches an image"
    else:
        return [Input(path, path.name)]
    if not matches:
        raise ConfigError("no images here", where=item, expected=wanted)
    return [Input(match, match.relative_to(root).as_posix()) for match in matches]


def plan_tasks(
    inputs: Iterable[Input],
    folder: Path,
    formats: Iterable[str],
    shard: Shard | None = None,
    channels: Sequence[int | str] | None = None,
) -> list[Task]:
    """Name every output before anything is computed.

    Parameters
    ----------
    inputs : all images of the job.
    folder : where outputs go.
    formats : keys of ``OUTPUT_SUFFIXES``.
    shard : the part to plan; None is all.
    channels : of every image, to keep; None keeps all.

    Returns
    -------
    A task an image, in their order. Where images and results share a folder, what would be the
    result of another image is not taken for an image.

    Raises
    ------
    ConfigError : on an unknown format, or two images that would write the same file, in this shard
        or in another, or an output that would replace an image.
    """
    chosen = _checked_formats(formats)
    inputs = list(inputs)
    inside = _inputs_inside(inputs, folder)
    results = _results_among(inside, inputs, chosen)
    images = {each.path.name for each in inside if each not in results}
    picked = None if channels is None else tuple(channels)
    owners: dict[str, Path] = {}
    tasks = []
    for image in inputs:
        stem = image.stem
        if image in results:
            continue
        if stem in owners:
            raise _clash(folder / stem, owners[stem], image.path)
        owners[stem] = image.path
        if shard is None or shard.holds(image.relative):
            outputs = {name: folder / (stem + OUTPUT_SUFFIXES[name]) for name in chosen}
            _require_not_images(outputs.values(), images)
            tasks.append(Task(stem, image.path, outputs, image.plane, picked))
    return tasks


def _clash(output: Path, one: Path, other: Path) -> ConfigError:
    return ConfigError(
        "two images would write the same files",
        where=output,
        got=f"{one} and {other}",
        fix="segment them into different folders",
    )


def _require_not_images(outputs: Iterable[Path], images: set[str]) -> None:
    for output in outputs:
        if output.name in images:
            raise ConfigError(
                "an output would replace an image of the job",
                where=output,
                fix="choose another folder for the results",
            )


def _inputs_inside(inputs: list[Input], folder: Path) -> list[Input]:
    parents = {image.path.parent for image in inputs}
    own = {parent for parent in parents if parent.absolute() == folder.absolute()}
    return [image for image in inputs if image.path.parent in own]


def _results_among(inside: list[Input], inputs: list[Input], formats: list[str]) -> set[Input]:
    """Inputs in the output folder that carry the name of another input's output."""
    if not inside:
        return set()
    owners: dict[str, set[Path]] = {}
    for image in inputs:
        for name in formats:
            owners.setdefault(image.stem + OUTPUT_SUFFIXES[name], set()).add(image.path)
    # An image a.ome.zarr has the name of its own output, and is no result for that.
    return {image for image in inside if owners.get(image.path.name, set()) - {image.path}}


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
    name = path.name.lower()
    if name.startswith("."):
        return False
    if path.is_dir():
        return name.endswith(ZARR_SUFFIXES) or is_zarr_folder(path)
    return name.endswith(IMAGE_SUFFIXES) and path.is_file()


def _stem(path: Path) -> str:
    name = path.name
    for suffix in _LONGEST_FIRST:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
