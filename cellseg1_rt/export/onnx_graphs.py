"""PyTorch modules to ONNX files that say what they are.

May import torch, onnx and onnx-ir. The modules are ``graphs.py``; where weights go is
``weight_file.py``; whether the result is right is ``verify.py``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.export import Dim

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.contract import FORMAT_VERSION, METADATA_PREFIX, GraphSpec
from cellseg1_rt.export.weight_file import WeightFile, refer_to_weights
from cellseg1_rt.model.precision import DTYPES

__all__ = ["OPSET", "write_graph"]

OPSET = 20  # the first with Gelu as one operation


def write_graph(
    spec: GraphSpec,
    module: torch.nn.Module,
    path: Path,
    *,
    image_size: int,
    precision: str,
    weights: WeightFile,
    format_version: int = FORMAT_VERSION,
) -> None:
    """Export one graph of the contract.

    Parameters
    ----------
    spec : the graph.
    module : from ``graph_modules``; its weights are those of ``weights``.
    path : the .onnx file to write, in the folder of the weights' file.
    image_size, precision : those of ``module``; they are written into the graph's metadata.
    weights : the file that the graph refers to.
    format_version : the bundle's.
    """
    example, dynamic = _example_inputs(spec.name, image_size, DTYPES[precision])
    for tensor in spec.inputs[len(example) :]:  # a LoRA's pairs, of one shape
        example, dynamic = (*example, torch.zeros([*map(int, tensor.shape)])), (*dynamic, {})
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            module,
            example,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None  # None only where export() is asked to write a file itself
    model = program.model
    refer_to_weights(model, weights)
    _strip_source_locations(model)
    model.metadata_props.clear()
    model.metadata_props.update(
        {
            METADATA_PREFIX + "format_version": str(format_version),
            METADATA_PREFIX + "graph": spec.name,
            METADATA_PREFIX + "image_size": str(image_size),
            METADATA_PREFIX + "precision": precision,
        }
    )
    ir.save(model, path)


def _example_inputs(
    name: str, image_size: int, dtype: torch.dtype
) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Inputs to trace with (sizes above 1, or the exporter would fix them) and what is dynamic."""
    grid = image_size // PATCH_SIZE
    batch, prompts, survivors = Dim("B"), Dim("N"), Dim("M")
    if name == "encoder":
        image = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
        size = torch.full((2, 2), image_size, dtype=torch.int32)
        return (image, size), ({0: batch}, {0: batch})
    if name == "prompt_decoder":
        embedding = torch.zeros(1, 256, grid, grid, dtype=dtype)
        return (embedding, torch.zeros(3, 2)), ({}, {0: prompts})
    keys, hyper = (torch.zeros(3, *shape, dtype=dtype) for shape in ((grid * grid, 256), (32,)))
    index = torch.tensor([0, 2])
    return (keys, hyper, index), ({0: prompts}, {0: prompts}, {0: survivors})


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter speaks of its own insides on every run; what matters is raised or verified."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip_source_locations(model: ir.Model) -> None:
    """Stack traces and paths of the machine that exported are no part of a graph."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in [*model.graph.inputs, *model.graph.outputs]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    model.doc_string = None
