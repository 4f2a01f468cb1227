"""Graphs whose weights lie in one safetensors file, once.

ONNX lets an initializer be a byte range of another file. A safetensors file is a header and raw
little-endian tensors, so all three graphs refer to the bundle's ``weights.safetensors``, which
keeps SAM's own key layout and opens anywhere. Weights that rest in another type than the graph
computes in go through a Cast in the graph, and what the exporter rearranged is rearranged there;
runtimes fold both when they load. May import onnx, onnx-ir, ml-dtypes and numpy.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["WeightFile", "refer_to_weights"]

_DTYPES = {"F16": (ir.DataType.FLOAT16, np.float16), "F32": (ir.DataType.FLOAT, np.float32)}
_COMPUTED = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
"""What weights are in a graph of each precision, besides the float32 ones of every graph."""
_SMALLEST = 1024
"""Elements below which an initializer stays in the graph: a reference would not pay."""


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_Key = tuple[str, tuple[int, ...], bytes]


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: where its bytes are and what it is."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    length: int
    values: NDArray[Any]


@dataclass(frozen=True)
class _Form:
    """How a graph's tensor is made of the file's: axes in another order, then another shape."""

    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        arranged = values if self.axes is None else values.transpose(self.axes)
        return arranged if self.shape is None else arranged.reshape(self.shape)


def _forms_of(shape: tuple[int, ...]) -> list[_Form]:
    """Forms in which the exporter leaves a weight: matrices transposed, kernels as products.

    A matrix may be the kernel of a 1×1 convolution (``model/precision.py``, the score head).
    A transposed convolution's kernel [c, k, 2, 2] becomes [2, 2, k, c] or, as the right factor of a
    product over channels, [c, 4·k].
    """
    forms = [_Form()]
    if len(shape) == 2:
        forms += [_Form((1, 0)), _Form(None, (*shape, 1, 1))]
    if len(shape) == 4:
        forms += [_Form((2, 3, 1, 0)), _Form((0, 2, 3, 1), (shape[0], -1))]
    return forms


class WeightFile:
    """The tensors of a safetensors file, found again by content.

    Parameters
    ----------
    path : the file.
    precision : what the graphs compute in; their weights are the file's, rounded to that.
    """

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        self.path = path
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes))
        data = np.memmap(path, np.uint8, "r", offset=8 + header_bytes)
        types = dict.fromkeys((np.float32, _COMPUTED[precision]))
        self._by_content: dict[_Key, tuple[_Entry, _Form]] = {}
        for name, tensor in sorted(header.items()):
            if name == "__metadata__" or tensor["dtype"] not in _DTYPES:
                continue
            dtype, numpy_dtype = _DTYPES[tensor["dtype"]]
            first, last = tensor["data_offsets"]
            shape = tuple(tensor["shape"])
            values = data[first:last].view(numpy_dtype).reshape(shape)
            entry = _Entry(name, dtype, shape, 8 + header_bytes + first, last - first, values)
            for computed in types:
                rounded = values.astype(np.float32).astype(computed)
                for form in _forms_of(shape):
                    self._by_content.setdefault(_key(form.of(rounded)), (entry, form))

    def find(self, values: NDArray[Any]) -> tuple[_Entry, _Form] | None:
        """The tensor that holds exactly these values, and the form they are in."""
        found = self._by_content.get(_key(values))
        if found is None:
            return None
        entry, form = found
        held = form.of(entry.values.astype(np.float32).astype(values.dtype))
        return found if np.array_equal(held, values) else None


def refer_to_weights(model: ir.Model, weights: WeightFile) -> None:
    """Replace initializers of ``model`` that ``weights`` holds by references, in place."""
    graph = model.graph
    external: dict[str, ir.Value] = {}
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _FLOATS or tensor.size < _SMALLEST:
            continue
        found = weights.find(np.ascontiguousarray(tensor.numpy()))
        if found is None:
            continue
        entry, form = found
        if entry.name not in external:
            external[entry.name] = _external_value(entry, weights.path.name)
        steps: list[ir.Node] = []
        result = external[entry.name]
        if entry.dtype != tensor.dtype:
            steps.append(ir.node("Cast", [result], {"to": int(tensor.dtype)}))
            result = steps[-1].outputs[0]
        if form.axes is not None:
            steps.append(ir.node("Transpose", [result], {"perm": list(form.axes)}))
            result = steps[-1].outputs[0]
        if form.shape is not None:
            target = ir.node("Constant", [], {"value_ints": list(form.shape)})
            steps += [target, ir.node("Reshape", [result, target.outputs[0]])]
            result = steps[-1].outputs[0]
        del graph.initializers[name]
        if steps:
            graph.insert_before(first, steps)
        value.replace_all_uses_with(result)
    for value in external.values():
        graph.register_initializer(value)


def _external_value(entry: _Entry, location: str) -> ir.Value:
    tensor = ir.ExternalTensor(
        location,
        entry.offset,
        entry.length,
        entry.dtype,
        shape=ir.Shape(entry.shape),
        name=f"weights/{entry.name}",
        base_dir="",
    )
    return ir.Value(
        name=f"weights/{entry.name}",
        shape=ir.Shape(entry.shape),
        type=ir.TensorType(entry.dtype),
        const_value=tensor,
    )


def _key(values: NDArray[Any]) -> _Key:
    content = hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
    return values.dtype.name, values.shape, content
