"""A bf16 graph with float32 in place of every bf16, for runtimes that have no bf16.

May import onnx-ir and numpy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

__all__ = ["widened_graph"]


@contextmanager
def widened_graph(path: Path) -> Iterator[Path]:
    """The graph of ``path`` in float32, in a file beside it (it may refer to weights there).

    The file is gone when the block ends.
    """
    model = ir.load(path)
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.BFLOAT16:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.dtype = ir.DataType.FLOAT
    for value in [*graph.inputs, *graph.outputs]:
        _widen(value)
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and name in ("to", "dtype"):
                if attribute.value == ir.DataType.BFLOAT16:
                    node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            elif attribute.type == ir.AttributeType.TENSOR:
                held = attribute.value
                if held.dtype == ir.DataType.BFLOAT16:
                    wide = ir.tensor(held.numpy().astype(np.float32))
                    node.attributes[name] = ir.AttrTensor(name, wide)
        for value in node.outputs:
            _widen(value)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as file:
        ir.save(model, file.name)
        yield Path(file.name)


def _widen(value: ir.Value) -> None:
    if value.dtype == ir.DataType.BFLOAT16:
        value.dtype = ir.DataType.FLOAT
