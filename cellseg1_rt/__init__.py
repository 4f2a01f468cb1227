"""cellseg1-rt: annotate one microscope image, segment a million.

    import cellseg1_rt

    model = cellseg1_rt.load("tiny")
    result = model.segment(image)

The names below are loaded when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellseg1_rt.formats import read_image
    from cellseg1_rt.results import Cells, Result
    from cellseg1_rt.runtime.model import Model, load
    from cellseg1_rt.runtime.pipeline import Candidates
    from cellseg1_rt.settings import InferenceSettings
    from cellseg1_rt.train import train
    from cellseg1_rt.version import __version__

__all__ = [
    "Candidates",
    "Cells",
    "InferenceSettings",
    "Model",
    "Result",
    "__version__",
    "load",
    "read_image",
    "train",
]

_HOMES = {
    "Candidates": "cellseg1_rt.runtime.pipeline",
    "Cells": "cellseg1_rt.results",
    "InferenceSettings": "cellseg1_rt.settings",
    "Model": "cellseg1_rt.runtime.model",
    "Result": "cellseg1_rt.results",
    "__version__": "cellseg1_rt.version",
    "load": "cellseg1_rt.runtime.model",
    "read_image": "cellseg1_rt.formats",
}


def __getattr__(name: str) -> Any:
    if name == "train":  # a package that can be called
        return import_module("cellseg1_rt.train")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
