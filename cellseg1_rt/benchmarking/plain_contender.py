"""The plain path as something that can be timed beside a runtime.

May import torch and segment-anything, which the extra ``train`` brings.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cellseg1_rt.benchmarking import counts
from cellseg1_rt.benchmarking.contender import ITEMSIZE, Sample, Work
from cellseg1_rt.benchmarking.machine import resolved_threads
from cellseg1_rt.benchmarking.plain_model import BATCH, PlainModel
from cellseg1_rt.benchmarking.plain_path import segment_plainly
from cellseg1_rt.benchmarking.products import bytes_of, flop_of
from cellseg1_rt.benchmarking.stopwatch import Stopwatch
from cellseg1_rt.benchmarking.traffic import bytes_of_plain_masks
from cellseg1_rt.contract import Manifest
from cellseg1_rt.formats import read_image
from cellseg1_rt.geometry import crops_of_image
from cellseg1_rt.runtime.model import rgb_for_model
from cellseg1_rt.settings import InferenceSettings

__all__ = ["PlainContender"]


class PlainContender:
    """Upstream's way with the bundle's weights.

    Parameters
    ----------
    bundle, manifest : the bundle.
    settings : grid, crops and thresholds.
    threads : PyTorch's threads, for the whole process; 0 takes all cores.
    """

    name, precision = "plain", "fp32"

    def __init__(
        self, bundle: Path, manifest: Manifest, settings: InferenceSettings, threads: int
    ) -> None:
        torch.set_num_threads(resolved_threads(threads))
        self._model = PlainModel(bundle, manifest)
        self._manifest, self._settings = manifest, settings

    def run(self, image: Path) -> Sample:
        """Read and segment one image. Nothing is written."""
        watch = Stopwatch()
        with watch.stage("read"):
            pixels = read_image(image).pixels
        with watch.stage("prepare"):
            rgb = rgb_for_model(pixels, name=image)
        with watch.stage("other"):
            labels, survivors = segment_plainly(rgb, self._model, self._settings, watch)
        work = self._work((rgb.shape[0], rgb.shape[1]), survivors)
        return Sample(watch.seconds, work, labels, sum(survivors))

    def _work(self, image_hw: tuple[int, int], survivors: tuple[int, ...]) -> dict[str, Work]:
        side, itemsize = self._manifest.image_size, ITEMSIZE["fp32"]
        crops = crops_of_image(*image_hw, self._settings.crops)
        encoded = counts.encoder_plain(self._manifest.backbone, side) * len(crops)
        prompts = self._settings.points_per_side**2
        calls = [min(BATCH, prompts - first) for first in range(0, prompts, BATCH)] * len(crops)
        decoded = [
            product
            for n in calls
            for product in (*counts.decoder_plain(side, n), *counts.head_plain(side, n))
        ]
        masks = sum(
            bytes_of_plain_masks(prompts, passed, side, crop.height * crop.width)
            for crop, passed in zip(crops, survivors, strict=True)
        )
        return {
            "encode": Work(flop_of(encoded), bytes_of(encoded, itemsize)),
            "decode": Work(flop_of(decoded), bytes_of(decoded, itemsize)),
            "candidates": Work(moved_bytes=masks),
        }
