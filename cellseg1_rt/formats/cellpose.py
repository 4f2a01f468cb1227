"""Cellpose's ``_seg.npy``: a pickled dictionary inside an NPY file, read without running anything.

A pickle can name any function of any library and have it called. Here a name stands for nothing but
a description: numpy's arrays, types and scalars become plain records of what they would be made
from, and any other name is refused. Only the record of ``masks`` is then turned into an array, from
its bytes. Files of older and newer numpy name the same things by different modules; both are read.

Imports numpy.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.spans import listed

__all__ = ["holds_objects", "masks_from_cellpose"]

_WHOLE_NUMBERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "b1")


class _Record:
    """Stands for a thing that a pickle would have made. Keeps what it was given, does nothing."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    __slots__ = ()


class _Type(_Record):
    __slots__ = ()


class _Bytes(_Record):
    """Bytes as the pickles of numpy before 1.17 hold them: as text, one character a byte."""

    __slots__ = ()


# `numpy.core` became `numpy._core` in numpy 2.
_RECORDS = {
    (f"numpy.{core}.multiarray", name): record
    for core in ("core", "_core")
    for name, record in (("_reconstruct", _Array), ("scalar", _Record))
} | {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Bytes,
}


class _RefusedError(Exception):
    """Names what a pickle asked for."""


# The unpickler written in Python: the one in C sets memory aside for any number of remembered
# objects that a damaged file happens to name.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        record = _RECORDS.get((module, name))
        if record is None:
            raise _RefusedError(f"{module}.{name}")
        return record


def holds_objects(path: Path) -> bool:
    """Whether an NPY file says that it holds Python objects.

    Raises
    ------
    Exception : whatever numpy raises on a damaged header.
    """
    with path.open("rb") as file:
        return _read_header(file).hasobject


def masks_from_cellpose(path: Path) -> NDArray[Any]:
    """The masks of a ``_seg.npy`` file: whole numbers [H, W], 0 where there is no cell.

    Raises
    ------
    InputError : if the file names anything but arrays, holds no ``masks``, or they are not one
        plane.
    Exception : whatever unpickling raises on a file that is cut off or damaged.
    """
    with path.open("rb") as file:
        _read_header(file)
        try:
            content = _Unpickler(file).load()
        except _RefusedError as error:
            raise InputError(
                "a pickle that asks for more than arrays; none of it was run",
                where=path,
                got=error,
                expected="a _seg.npy file of Cellpose",
                fix="if you trust the file, save its masks as TIFF or PNG",
            ) from error
    saved = _array_state(content)[-1]
    saved = saved[0] if isinstance(saved, list) and len(saved) == 1 else None
    if not isinstance(saved, dict) or not isinstance(saved.get("masks"), _Array):
        raise InputError(
            "an array of Python objects, but not what Cellpose saves",
            where=path,
            got=f"the keys {listed(list(map(str, saved)))}"
            if isinstance(saved, dict)
            else "no dictionary",
            expected="a dictionary with masks",
            fix="save the labels as whole numbers",
        )
    return _plane_from_record(saved["masks"], path)


def _read_header(file: BinaryIO) -> np.dtype[Any]:
    """The type that the header names; leaves ``file`` at the first byte after it."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)[2]
    return np.lib.format.read_array_header_2_0(file)[2]


def _array_state(record: Any) -> tuple[Any, ...]:
    """Version, shape, type, column-major, and bytes or a list of objects."""
    if not isinstance(record, _Array) or not isinstance(record.state, tuple):
        raise ValueError("something else than an array")
    if len(record.state) != 5 or not isinstance(record.state[1], tuple):
        raise ValueError("an array in an unknown form")
    return record.state


def _plane_from_record(record: _Array, path: Path) -> NDArray[Any]:
    _, shape, kind, column_major, data = _array_state(record)
    if not isinstance(kind, _Type) or not kind.arguments or not isinstance(kind.state, tuple):
        raise ValueError("an array of an unknown type")
    if isinstance(data, _Bytes):
        data = data.arguments[0].encode("latin1")
    code, order = kind.arguments[0], kind.state[1]
    long_axes = tuple(length for length in shape if length != 1) if len(shape) > 2 else shape
    if code not in _WHOLE_NUMBERS or len(long_axes) != 2:
        raise InputError(
            "masks that are not one plane of whole numbers",
            where=path,
            got=f"{code} {shape}",
            expected="whole numbers [H, W]",
            fix="save the plane to train on as its own file",
        )
    dtype = np.dtype(code).newbyteorder(">" if order == ">" else "<")
    if not all(length > 0 for length in shape) or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for masks of shape {shape}")
    masks = np.frombuffer(data, dtype).reshape(long_axes, order="F" if column_major else "C")
    return masks.astype(dtype.newbyteorder("="))
