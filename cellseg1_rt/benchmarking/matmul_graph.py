"""A graph of matrix products as the bytes of an ONNX model, for runtimes to show their best at.

The package ``onnx`` is no part of the base install, and a model of one operator needs little of it:
an ONNX file is a protocol buffer, whose fields are a number, a kind and a value. Numbers of fields
are those of onnx.proto. Imports numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["chained_products"]

_TYPES = {"float32": 1, "float16": 10}
_IR_VERSION, _OPSET = 8, 18


def chained_products(weight: NDArray[np.float32] | NDArray[np.float16], count: int) -> bytes:
    """A model that multiplies ``x`` [n, n] by the same weight ``count`` times and returns ``y``.

    A chain, so that what a runtime does to its inputs and outputs weighs little.

    Parameters
    ----------
    weight : [n, n], float32 or float16, which ``x`` and ``y`` are too; stored in the model.
    count : products.
    """
    side, kind = len(weight), _TYPES[weight.dtype.name]
    names = ["x", *(f"product{number}" for number in range(1, count)), "y"]
    nodes = [
        _text(1, before) + _text(1, "weight") + _text(2, after) + _text(4, "MatMul")
        for before, after in itertools.pairwise(names)
    ]
    initializer = (
        _number(1, side) * 2
        + _number(2, kind)
        + _text(8, "weight")
        + _bytes(9, np.ascontiguousarray(weight).tobytes())
    )
    graph = (
        b"".join(_bytes(1, node) for node in nodes)
        + _text(2, "products")
        + _bytes(5, initializer)
        + _bytes(11, _tensor("x", kind, (side, side)))
        + _bytes(12, _tensor("y", kind, (side, side)))
    )
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def _tensor(name: str, kind: int, shape: Iterable[int]) -> bytes:
    """A ValueInfoProto."""
    sides = b"".join(_bytes(1, _number(1, side)) for side in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, sides)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the eighth says that more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
