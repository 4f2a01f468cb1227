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
from cellseg1_rt.formats.planes import ArrayPlane
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.large import pieces_on, segment_plane, stats_of_plane
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.pipeline import (
    PROMPT_BATCH,
    Candidates,
    find_candidates,
    result_from_candidates,
)
from cellseg1_rt.runtime.tiles import TilePlan
from cellseg1_rt.runtime.tiling import Tiling
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
        self,
        image: NDArray[Any],
        *,
        resize: int | None = None,
        tile: str | int = "none",
        pixel_size_um: tuple[float, float] | None = None,
        name: str | Path = "image",
    ) -> Result:
        """Segment an image.

        Parameters
        ----------
        image : [H, W] or [H, W, C] of any numeric dtype, C in 1..4: grey, two channels, RGB or
            RGBA (alpha is dropped). Normalised here; the array is not modified.
        resize : stretch the image to this many px a side first, as the published protocol does for
            some datasets; labels are then of that size, and no tiles are made.
        tile : ``none`` segments an image as a whole, as the published method does; ``auto``, the
            command's default, cuts one that is much larger than the training image into overlapping
            tiles of that size (docs/large_images.md); a number is the side of a tile in px, for
            images that are larger.
        pixel_size_um : micrometres a pixel (y, x). Where that of the training image is known too, a
            tile covers as many micrometres as it does.
        name : what an error calls the image.

        Returns
        -------
        Labels of the image's own height and width (or ``resize``), and the table of cells.

        Raises
        ------
        InputError : on an image of the wrong shape, without pixels, constant zero or not finite.
        ConfigError : on a ``tile`` that is none.
        """
        image = np.asarray(image)
        plan = self._plan(image, resize, tile, pixel_size_um, name)
        if plan is not None:
            return self._segment_tiles(ArrayPlane(image), plan, name)
        return self._segment_rgb(rgb_for_model(image, resize, name))

    def _plan(
        self,
        image: NDArray[Any],
        resize: int | None,
        tile: str | int,
        pixel_size_um: tuple[float, float] | None,
        name: str | Path,
    ) -> TilePlan | None:
        """The tiles of an image; None where it is segmented whole, or is none at all."""
        tiling = Tiling.of_bundle(self.manifest, tile)
        if resize is not None or image.ndim < 2:
            return None
        return tiling.plan((image.shape[0], image.shape[1]), pixel_size_um, name)

    def _segment_rgb(self, rgb: NDArray[np.uint8]) -> Result:
        candidates = find_candidates(rgb, self.backend, self.settings, self.prompt_batch)
        return result_from_candidates(candidates, self.settings)

    def _segment_tiles(self, plane: ArrayPlane, plan: TilePlan, name: str | Path) -> Result:
        bands: list[NDArray[np.uint32]] = []
        cells = segment_plane(
            plane,
            plan,
            stats_of_plane(plane, name),
            pieces_on(self.backend, self.settings, self.prompt_batch),
            self.settings,
            write=bands.append,
            where=name,
        )
        labels = np.concatenate(bands)
        return Result(labels if len(cells) > 2**16 - 1 else labels.astype(np.uint16), cells)

    def segment_many(
        self, paths: Iterable[str | Path], *, resize: int | None = None, tile: str | int = "none"
    ) -> Iterator[tuple[Path, Result]]:
        """Segment files in their order, yielding each with its path.

        While one is segmented, the next is read. A file that cannot be read is an error when it is
        its turn. ``resize`` and ``tile`` are those of ``segment``.
        """

        def read(path: Path) -> tuple[Path, NDArray[Any], TilePlan | None]:
            image = read_image(path)
            plan = self._plan(image.pixels, resize, tile, image.pixel_size_um, path)
            if plan is not None:
                return path, image.pixels, plan
            return path, rgb_for_model(image.pixels, resize, path), None

        with ThreadPoolExecutor(1) as reader:
            ahead: Future[tuple[Path, NDArray[Any], TilePlan | None]] | None = None
            for path in chain(paths, [None]):
                current = ahead
                ahead = None if path is None else reader.submit(read, Path(path))
                if current is None:
                    continue
                source, pixels, plan = current.result()
                if plan is None:
                    yield source, self._segment_rgb(pixels)
                else:
                    yield source, self._segment_tiles(ArrayPlane(pixels), plan, source)

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
