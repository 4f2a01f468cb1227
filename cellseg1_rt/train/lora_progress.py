"""What a person sees of a training run: figures of every step, the log, the curves.

May import torch, and OpenCV through ``curves.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from cellseg1_rt.train.checkpoints import keep_log_until
from cellseg1_rt.train.curves import write_curves
from cellseg1_rt.train.lora_memory import memory_mb
from cellseg1_rt.train.lora_step import StepLosses

__all__ = ["Progress"]


class Progress:
    """Gathers the losses between steps, and writes and reports a line for each step.

    Parameters
    ----------
    work : folder of ``log.jsonl`` and ``curves.png``; of a log that is there, lines after ``step``
        are dropped, since those steps are made again.
    step, steps : made so far, and in all.
    device : whose memory counts.
    report : called with every line's figures.
    """

    def __init__(
        self,
        work: Path,
        step: int,
        steps: int,
        device: torch.device,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        self._log_path, self._curves = work / "log.jsonl", work / "curves.png"
        self._seconds_before = keep_log_until(self._log_path, step)
        self._first, self._steps, self._device, self._report = step, steps, device, report
        self._started = self._since = time.perf_counter()
        self._losses: list[StepLosses] = []
        self._tiles = 0
        self._log = self._log_path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()

    def add(self, losses: StepLosses, tiles: int) -> None:
        """A batch of ``tiles`` tiles is done."""
        self._losses.append(losses)
        self._tiles += tiles

    def report(self, epoch: int, step: int, learning_rate: float) -> None:
        """A step is made, of all batches that were added since the last one."""
        now, count = time.perf_counter(), len(self._losses)
        per_step = (now - self._started) / (step - self._first)
        self._write(
            {
                "epoch": epoch,
                "step": step,
                "loss": sum(losses.total for losses in self._losses) / count,
                "score_loss": sum(losses.score for losses in self._losses) / count,
                "mask_loss": sum(losses.mask for losses in self._losses) / count,
                "learning_rate": learning_rate,
                "images_per_s": round(self._tiles / (now - self._since), 3),
                "memory_mb": round(memory_mb(self._device), 1),
                "seconds_left": round(per_step * (self._steps - step), 1),
            }
        )
        self._since, self._losses, self._tiles = now, [], 0

    def report_validation(self, epoch: int, step: int, figures: dict[str, float]) -> None:
        """What the held-out corner says after an epoch."""
        self._write({"epoch": epoch, "step": step, **figures})

    def draw(self) -> None:
        """Draw the log so far."""
        lines = self._log_path.read_text(encoding="utf-8").splitlines()
        write_curves(self._curves, [json.loads(line) for line in lines])

    def _write(self, figures: dict[str, float]) -> None:
        seconds = self._seconds_before + time.perf_counter() - self._started
        figures = {**figures, "seconds": round(seconds, 1)}
        self._log.write(json.dumps(figures) + "\n")
        self._log.flush()
        self._report(figures)
