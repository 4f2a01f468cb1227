"""How far a builder has come.

Imports nothing of TensorRT: its class is subclassed where the module is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Steps", "monitor_for"]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Steps:
    """How much of a build is done, from nested phases of counted steps."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of some steps begins, inside a step of its parent."""
        self._phases[phase] = _Phase(parent, steps)

    def complete(self, phase: str, step: int) -> None:
        """A step, counted from 0, is done."""
        self._phases[phase].done = step + 1

    def finish(self, phase: str) -> None:
        """A phase ends, whether or not all of its steps were counted."""
        del self._phases[phase]

    @property
    def share(self) -> float:
        """What is done of the whole, 0..1. It can step back a little where a phase ends early."""
        return min(1.0, sum(self._share(name) for name in self._children(None)))

    def _children(self, parent: str | None) -> list[str]:
        return [name for name, phase in self._phases.items() if phase.parent == parent]

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inside = min(1.0, sum(self._share(child) for child in self._children(name)))
        return min(1.0, (phase.done + inside) / max(1, phase.steps))


def monitor_for(trt: Any, report: Callable[[float], None]) -> Any:
    """A TensorRT progress monitor that reports the share done, 0..1, at every step."""
    steps = Steps()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, count: int) -> None:
            steps.start(phase, parent, count)

        def phase_finish(self, phase: str) -> None:
            steps.finish(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            steps.complete(phase, step)
            report(steps.share)
            return True  # go on

    return Monitor()
