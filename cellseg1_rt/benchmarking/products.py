"""Matrix products: what FLOPs and bytes are counted as.

A graph is a list of matrix products, for those are where its FLOPs are. One multiplication and one
addition are 2 FLOPs. Normalisation, softmax, GELU and sums count as nothing. Bytes are what the
products read and write: each operand and each result once, weights once a call; what lies between
two products counts as done in passing. A fused attention moves less, since it never writes its
weights, and so does a runtime that finds an operand in its cache: shares of a memory ceiling can be
above what the memory itself carried. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Product", "by_head", "bytes_of", "flop_of", "linear", "pairs"]

HEADS = 8


@dataclass(frozen=True)
class Product:
    """Matrix products of one kind.

    Attributes
    ----------
    name : what it is in the module.
    flop : 2·m·k·n for each [m, k] × [k, n].
    elements : numbers read and written: both operands and the result, a shared operand once.
    constant : whether it depends on weights only, so that a runtime folds it when it loads.
    """

    name: str
    flop: int
    elements: int
    constant: bool = False


def flop_of(products: Iterable[Product], *, constant: bool = False) -> int:
    """FLOPs of a call; ``constant`` counts what is folded at loading too."""
    return sum(p.flop for p in products if constant or not p.constant)


def bytes_of(products: Iterable[Product], itemsize: int) -> int:
    """Bytes that a call's products read and write, at ``itemsize`` bytes a number."""
    return itemsize * sum(p.elements for p in products if not p.constant)


def linear(name: str, rows: int, k: int, n: int, *, right: int = 1) -> Product:
    """[rows, k] through ``right`` matrices [k, n], each used by its share of the rows."""
    return Product(name, 2 * rows * k * n, rows * k + right * k * n + rows * n)


def pairs(name: str, count: int, m: int, k: int, n: int) -> Product:
    """``count`` products of two operands of their own."""
    return Product(name, 2 * count * m * k * n, count * (m * k + k * n + m * n))


def by_head(name: str, rows: int, k: int, n: int) -> Product:
    """[rows, k] × [k, n] head by head, with a right factor that prompts share; k over all heads."""
    return Product(name, 2 * rows * k * n, rows * k + k * n + HEADS * rows * n)
