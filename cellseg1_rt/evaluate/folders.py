"""Label files of two folders: paired by name, compared, and what could not be, by name.

Files pair by their stem. In a folder with files called ``NAME_labels.*``, as ``segment`` writes
them, only those count, and NAME is what pairs. Makes no reports. Reads through
``cellseg1_rt.formats``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError, ConfigError, InputError
from cellseg1_rt.evaluate.figures import THRESHOLDS, Figures, figures_from_maps, pooled_figures
from cellseg1_rt.formats import IMAGE_SUFFIXES, read_labels

__all__ = [
    "Evaluation",
    "Failure",
    "ImageResult",
    "Pair",
    "evaluate_folders",
    "files_by_name",
    "read_pair",
]

_ENDING = "_labels"


@dataclass(frozen=True)
class Pair:
    """The predicted and the true label file of one image."""

    name: str
    pred: Path
    true: Path


@dataclass(frozen=True)
class ImageResult:
    """One image that could be compared."""

    pair: Pair
    figures: Figures


@dataclass(frozen=True)
class Failure:
    """One image that could not, and why."""

    name: str
    error: CellSeg1RtError


@dataclass(frozen=True)
class Evaluation:
    """Everything that came of comparing ``pred`` with ``true``.

    Attributes
    ----------
    pred, true : the folders, or files, as they were given.
    images : what was compared, in the order of the names.
    failures : what was not, in the order of the names: files without a partner, of another size,
        or that cannot be read.
    passed_over : files not called ``NAME_labels.*`` beside ones that are.
    """

    pred: Path
    true: Path
    images: tuple[ImageResult, ...]
    failures: tuple[Failure, ...]
    passed_over: tuple[Path, ...]

    @property
    def overall(self) -> Figures | None:
        """The figures of all images together; None if there are none."""
        figures = [image.figures for image in self.images]
        return pooled_figures(figures) if figures else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the stable layout of ``evaluate --json``."""
        overall = self.overall
        return {
            "version": 1,
            "pred": str(self.pred),
            "true": str(self.true),
            "thresholds": list(THRESHOLDS),
            "overall": overall and {"images": len(self.images), **overall.to_dict()},
            "images": [
                {
                    "name": image.pair.name,
                    "pred": str(image.pair.pred),
                    "true": str(image.pair.true),
                    "figures": image.figures.to_dict(),
                }
                for image in self.images
            ],
            "failures": [{"name": one.name, "error": str(one.error)} for one in self.failures],
            "passed_over": [str(path) for path in self.passed_over],
        }


def evaluate_folders(
    pred: str | Path,
    true: str | Path,
    *,
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter,
) -> Evaluation:
    """Compare predicted label maps with true ones.

    Parameters
    ----------
    pred, true : two folders, or two files, which need not have one name.
    progress : called with the pairs; what it yields is compared. For a progress bar.

    Raises
    ------
    ConfigError : if one is a folder and the other is not, or a folder holds no label files.
    """
    pred, true = Path(pred), Path(true)
    pairs, failures, passed_over = _pairs(pred, true)
    images = []
    for pair in progress(pairs):
        try:
            images.append(ImageResult(pair, figures_from_maps(*read_pair(pair))))
        except CellSeg1RtError as error:
            failures.append(Failure(pair.name, error))
    failures.sort(key=lambda failure: failure.name)
    return Evaluation(pred, true, tuple(images), tuple(failures), tuple(passed_over))


def read_pair(pair: Pair) -> tuple[NDArray[Any], NDArray[Any]]:
    """The predicted and the true label map of an image, integers [H, W].

    Raises
    ------
    InputError, MissingExtraError : if one cannot be read, or their sizes differ.
    """
    pred, true = read_labels(pair.pred), read_labels(pair.true)
    if pred.shape != true.shape:
        raise InputError(
            "labels of another size than the true ones",
            where=pair.pred,
            got=f"{pred.shape[0]}×{pred.shape[1]}",
            expected=f"{true.shape[0]}×{true.shape[1]}, the size of {pair.true}",
            fix="segment at the labels' size, or stretch these labels without blending",
        )
    return pred, true


def files_by_name(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that may be images or label maps, by stem, both in order."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        ending = next((end for end in _SUFFIXES if path.name.lower().endswith(end)), None)
        if ending is not None and not path.name.startswith(".") and path.is_file():
            files[path.name[: -len(ending)]].append(path)
    return dict(files)


_SUFFIXES = sorted(IMAGE_SUFFIXES, key=len, reverse=True)


def _pairs(pred: Path, true: Path) -> tuple[list[Pair], list[Failure], list[Path]]:
    """What to compare, what has no partner, and what was passed over."""
    if not pred.is_dir() and not true.is_dir():
        return [Pair(true.stem, pred, true)], [], []
    if not (pred.is_dir() and true.is_dir()):
        raise ConfigError(
            "a folder can only be compared with a folder",
            where=f"{pred}, {true}",
            got=", ".join("a folder" if path.is_dir() else "no folder" for path in (pred, true)),
            expected="two folders or two files",
        )
    preds, other_preds = _label_files(pred)
    trues, other_trues = _label_files(true)
    pairs, failures = [], []
    for name in sorted(preds.keys() | trues.keys()):
        try:
            found = _only_file(preds, name, pred, trues), _only_file(trues, name, true, preds)
            pairs.append(Pair(name, *found))
        except InputError as error:
            failures.append(Failure(name, error))
    return pairs, failures, other_preds + other_trues


def _label_files(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Label files by the name that pairs, and files passed over because they are not called so."""
    files = files_by_name(folder)
    if not files:
        raise ConfigError(
            "no label files here",
            where=folder,
            expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
        )
    named = {stem: paths for stem, paths in files.items() if stem.endswith(_ENDING)}
    if not named:
        return files, []
    others = [path for stem, paths in files.items() if stem not in named for path in paths]
    return {stem.removesuffix(_ENDING): paths for stem, paths in named.items()}, others


def _only_file(
    files: dict[str, list[Path]], name: str, folder: Path, partners: dict[str, list[Path]]
) -> Path:
    paths = files.get(name, [])
    if {path.name for path in paths} == {f"{name}{_ENDING}.tif", f"{name}{_ENDING}.png"}:
        return paths[1]  # `segment --format tif,png` writes the same labels twice
    if not paths:
        raise InputError(
            "a label file without a partner",
            where=partners[name][0],
            got=f"no file {name}.* or {name}{_ENDING}.* in {folder}",
            expected="one",
        )
    if len(paths) > 1:
        raise InputError(
            "several label files of one name",
            where=folder / name,
            got=", ".join(path.name for path in paths),
            expected="one",
            fix="keep one of them in this folder",
        )
    return paths[0]
