"""Engines built in processes of their own, some at a time, all stopped when one fails.

Imports the standard library only; what the processes run is ``child``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.engine_files import EngineKey, EngineRecord, Figures
from cellseg1_rt.errors import (
    BundleError,
    CellSeg1RtError,
    ConfigError,
    RuntimeUnavailableError,
)

__all__ = ["BuildTask", "Progress", "run_builds"]

Progress = Callable[[EngineKey, float], None]
"""Is told which engine, and the share of it that is done, from any thread."""

_KINDS = {kind.__name__: kind for kind in (BundleError, ConfigError, RuntimeUnavailableError)}


@dataclass(frozen=True)
class BuildTask:
    """An engine to build: from which bundle, and the folder its plan goes into."""

    bundle: Path
    key: EngineKey
    folder: Path


def run_builds(tasks: Sequence[BuildTask], jobs: int, progress: Progress) -> list[EngineRecord]:
    """Build engines, ``jobs`` at a time, and return them in order. Writes plans, not records.

    Raises
    ------
    CellSeg1RtError : the first that a build ended with; the others are stopped.
    """
    children = _Children()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_run_build, task, children, progress) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C too: nothing is left running
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise


class _Children:
    """The processes that run, and whether more may be started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a process, unless all have been stopped."""
        with self._lock:
            if self._stopped:
                raise ConfigError("stopped, because another build failed", where="build-engine")
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
            )
            self._running.append(child)
            return child

    def stop(self) -> None:
        """Kill all of them and let no other start."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.kill()


def _run_build(task: BuildTask, children: _Children, progress: Progress) -> EngineRecord:
    plan = task.folder / f"{task.key.stem}.plan"
    request = {"bundle": str(task.bundle), "key": asdict(task.key), "plan": str(plan)}
    child = children.start([sys.executable, "-m", "cellseg1_rt.engine.child"])
    assert child.stdin is not None  # both are pipes
    assert child.stdout is not None
    last: dict[str, Any] = {}
    said = "nothing"
    with child:
        child.stdin.write(json.dumps(request))
        child.stdin.close()
        for line in child.stdout:
            if not line.startswith("{"):  # of a library, or the traceback of an interpreter
                said = line.strip() or said
                continue
            last = json.loads(line)
            if "share" in last:
                progress(task.key, last["share"])
    if "error" in last:
        raise _KINDS.get(last["kind"], ConfigError)(**last["error"])
    if "figures" not in last:
        raise _died(task.key, child.returncode, said)
    progress(task.key, 1.0)
    return EngineRecord(
        task.key, last["plan_sha256"], last["plan_bytes"], Figures(**last["figures"]), task.folder
    )


def _died(key: EngineKey, code: int, said: str) -> CellSeg1RtError:
    """The error for a builder that ended without a word: mostly a lack of memory."""
    return RuntimeUnavailableError(
        "the builder's process died",
        where=f"{key.graph} for {', '.join(key.targets)}",
        got=f"exit code {code}, and last {said}",
        fix="with exit code -9 it was killed, mostly for its memory: try --jobs 1",
    )
