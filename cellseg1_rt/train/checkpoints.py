"""What a training run leaves to go on from: its checkpoint and its log. May import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cellseg1_rt.errors import WeightsError
from cellseg1_rt.files import atomic_path

__all__ = ["keep_log_until", "not_resumable", "read_checkpoint", "write_checkpoint"]

_FIX = "remove it to start again, or use the settings it was made with"


def write_checkpoint(
    path: Path, identity: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save({"identity": identity, **state}, temporary)


def read_checkpoint(path: Path, identity: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a checkpoint of the same run.

    Parameters
    ----------
    path : what ``write_checkpoint`` wrote.
    identity : what makes the run what it is, in named parts.

    Raises
    ------
    WeightsError : if it cannot be read, or is of another run; what differs is named.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
        differing = [
            f"{part}.{name} is {found[part].get(name)!r}, not {value!r}"
            for part, values in identity.items()
            for name, value in values.items()
            if found[part].get(name) != value
        ]
    except Exception as error:  # damaged bytes surface as whatever the unpickler trips over
        raise not_resumable(path, error) from error
    if differing:
        raise WeightsError(
            "checkpoint is of another run", where=path, got="; ".join(differing), fix=_FIX
        )
    return dict(state)


def not_resumable(path: Path, error: Exception) -> WeightsError:
    """The error for a checkpoint that does not hold what it should."""
    text = str(error).splitlines()
    return WeightsError(
        "checkpoint cannot be resumed",
        where=path,
        got=f"{type(error).__name__}: {text[0] if text else ''}",
        fix=_FIX,
    )


def keep_log_until(path: Path, step: int) -> float:
    """Drop the log's lines after ``step``; returns the seconds that the last kept line tells."""
    if not path.exists():
        return 0.0
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return float(kept[-1]["seconds"]) if kept else 0.0
