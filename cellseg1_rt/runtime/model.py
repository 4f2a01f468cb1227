"""A loaded bundle: the one public class with state.

Torch-free. What it does to an image is ``pipeline``; what runs the graphs is ``backends``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.choose import Choice, choose_runtime, load_backend
from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import Manifest, read_manifest, verify_files
from cellseg1_rt.formats import read_image
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.pipeline import (
    PROMPT_BATCH,
    Candidates,
    find_candidates,
    result_from_candidates,
)
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Model", "load"]


def load(
    bundle: str | Path = "tiny",
    *,
    runtime: str = "auto",
    precision: str = "bundle",
    threads: int = 0,
    prompt_batch: int = PROMPT_BATCH,
    **settings: Any,
) -> Model:
    """Load a bundle.

    Parameters
    ----------
    bundle : the folder of an exported bundle, or ``tiny``, the one that comes with the package.
    runtime : ``auto`` or one of ``cellseg1_rt.backends.choose.RUNTIMES``.
    precision : ``bundle`` computes in what the bundle is typed in; ``fp32``, ``fp16`` or ``bf16``
        asks for that one, and is an error where the runtime or the CPU cannot. Results are float32.
    threads : CPU threads; 0 takes all cores.
    prompt_batch : most prompts in one call of the decoder.
    **settings : values that replace the bundle's own, by the names of ``InferenceSettings``.

    Raises
    ------
    BundleError : if a file is missing, damaged, of another version, or differs from its hash.
    ConfigError : on a setting, runtime or precision that does not exist or is out of range.
    MissingExtraError, RuntimeUnavailableError : if the runtime is not installed or does not load.
    """
    folder = find_bundle(bundle)
    manifest = read_manifest(folder)
    chosen = InferenceSettings.from_dict({**manifest.settings.to_dict(), **settings})
    choice = choose_runtime(
        runtime,
        precision=precision,
        bundle_precision=manifest.precision,
        engines_of=(folder, manifest),
    )
    verify_files(folder, manifest)
    return Model(folder, manifest, choice, chosen, threads=threads, prompt_batch=prompt_batch)


class Model:
    """A bundle on a runtime, ready for images. Make one with ``cellseg1_rt.load``."""

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        choice: Choice,
        settings: InferenceSettings,
        *,
        threads: int = 0,
        prompt_batch: int = PROMPT_BATCH,
    ) -> None:
        self.bundle, self.manifest, self.choice, self.settings = bundle, manifest, choice, settings
        self.prompt_batch = prompt_batch
        self.backend = load_backend(choice, bundle, manifest, threads=threads)

    def segment(
        self, image: NDArray[Any], *, resize: int | None = None, name: str | Path = "image"
    ) -> Result:
        """Segment an image.

        Parameters
        ----------
        image : [H, W] or [H, W, C] of any numeric dtype, C in 1..4: grey, two channels, RGB or
            RGBA (alpha is dropped). Normalised here; the array is not modified.
        resize : stretch the image to this many px a side first, as the published protocol does for
            some datasets; labels are then of that size.
        name : what an error calls the image.

        Returns
        -------
        Labels of the image's own height and width (or ``resize``), and the table of cells.

        Raises
        ------
        InputError : on an image of the wrong shape, without pixels, constant zero or not finite.
        """
        rgb = rgb_for_model(image, resize, name)
        candidates = find_candidates(rgb, self.backend, self.settings, self.prompt_batch)
        return result_from_candidates(candidates, self.settings)

    def segment_many(
        self, paths: Iterable[str | Path], *, resize: int | None = None
    ) -> Iterator[tuple[Path, Result]]:
        """Segment files in their order, yielding each with its path.

        While one is segmented, the next is read. A file that cannot be read is an error when it is
        its turn.
        """

        def read(path: Path) -> tuple[Path, NDArray[np.uint8]]:
            return path, rgb_for_model(read_image(path).pixels, resize, path)

        with ThreadPoolExecutor(1) as reader:
            ahead: Future[tuple[Path, NDArray[np.uint8]]] | None = None
            for path in chain(paths, [None]):
                current = ahead
                ahead = None if path is None else reader.submit(read, Path(path))
                if current is not None:
                    source, rgb = current.result()
                    found = find_candidates(rgb, self.backend, self.settings, self.prompt_batch)
                    yield source, result_from_candidates(found, self.settings)

    def candidates(
        self, image: NDArray[Any], *, score: float = 0.5, stability: float = 0.0
    ) -> Candidates:
        """Candidates above low floors, so that thresholds can be tried without the model.

        Parameters
        ----------
        image : as for ``segment``.
        score, stability : floors; ``Candidates.result`` can ask for anything above them.
        """
        floors = self.settings.updated(score=score, stability=stability, max_area_ratio=0.0)
        found = find_candidates(rgb_for_model(image), self.backend, floors, self.prompt_batch)
        defaults = self.settings.updated(
            score=max(score, self.settings.score), stability=max(stability, self.settings.stability)
        )
        return replace(found, settings=defaults)


def rgb_for_model(
    image: NDArray[Any], resize: int | None = None, name: str | Path = "image"
) -> NDArray[np.uint8]:
    """Normalise to uint8 [H, W, 3] and, if asked, stretch to ``resize`` × ``resize`` px."""
    rgb = rgb_from_pixels(np.asarray(image), where=name)
    if resize is None:
        return rgb
    stretched = cv2.resize(rgb, (resize, resize), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(stretched, np.uint8)
