"""The program of the process that builds one engine, so that it can be stopped at any time.

A builder answers to nothing while it compiles, and what it takes of memory is only given back with
its process. Standard input holds one JSON object: ``bundle``, ``key`` and ``plan`` (the file to
write). Standard output gets JSON lines: ``{"share": 0.5}`` as it goes on, and in the end
``{"figures": …, "plan_sha256": …, "plan_bytes": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cellseg1_rt.backends.tensorrt_library import load_library
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.engine.builder import build_plan
from cellseg1_rt.engine_files import EngineKey
from cellseg1_rt.errors import CellSeg1RtError, ConfigError


def main(request: dict[str, Any], channel: TextIO) -> None:
    """Build the engine and write its plan."""

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    bundle = Path(request["bundle"])
    key = EngineKey.from_dict(request["key"])
    try:
        plan, figures = build_plan(
            load_library(key.flavor, "build-engine"),
            bundle,
            read_manifest(bundle),
            key,
            lambda share: tell({"share": share}),
        )
        _write(plan, Path(request["plan"]))
    except CellSeg1RtError as error:
        parts = {name: getattr(error, name) for name in ("what", "where", "got", "expected", "fix")}
        named = {name: None if part is None else str(part) for name, part in parts.items()}
        tell({"error": named, "kind": type(error).__name__})
        return
    digest = hashlib.sha256(plan).hexdigest()
    tell({"figures": asdict(figures), "plan_sha256": digest, "plan_bytes": plan.nbytes})


def _write(plan: Any, path: Path) -> None:
    try:
        with path.open("wb") as file:
            file.write(plan)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            "the plan cannot be written",
            where=path,
            got=error.strerror,
            expected=f"room for {plan.nbytes / 1e6:.1f} MB",
            fix="free some room, or choose another folder with -o",
        ) from error


if __name__ == "__main__":
    # Ctrl-C reaches all of a terminal's processes; the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library may print of its own accord goes to stderr, not between the messages.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(json.load(sys.stdin), messages)
