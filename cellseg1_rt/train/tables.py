"""Recipe tables as dataclasses: no field missing or unknown, each of its type.

Imports the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from cellseg1_rt.errors import ConfigError

__all__ = ["part_from_table", "require_range"]

Part = TypeVar("Part")

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


def part_from_table(kind: type[Part], table: Any, where: str) -> Part:
    """A dataclass from a recipe's table; fields with a default may be left out.

    Parameters
    ----------
    kind : the dataclass; fields annotated ``int``, ``float``, ``str`` and ``bool`` are checked
        here, others by the class itself.
    table : the values.
    where : what to call the table in messages.

    Raises
    ------
    ConfigError : on anything but a table, a missing or unknown field, or a value of another type.
    """
    if not isinstance(table, dict):
        raise ConfigError("not a table", where=where, got=repr(table))
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    needed = {
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING
    }
    for problem, names in (
        ("missing", needed - table.keys()),
        ("unknown", table.keys() - known.keys()),
    ):
        if names:
            raise ConfigError(
                f"{problem} field",
                where=where,
                got=", ".join(sorted(names)),
                expected=", ".join(known),
            )
    for name, value in table.items():
        wanted = _TYPES.get(str(known[name].type))
        if wanted and type(value) not in wanted:  # a bool is an int, and not meant as one
            raise ConfigError(
                f"not of type {known[name].type}", where=f"{where}, {name}", got=repr(value)
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError("not finite", where=f"{where}, {name}", got=value)
    return kind(**table)


def require_range(part: Any, name: str, holds: bool, expected: str) -> None:
    """Refuse a field's value unless it ``holds``."""
    if not holds:
        raise ConfigError(
            "out of range",
            where=f"recipe, {type(part).__name__}.{name}",
            got=repr(getattr(part, name)),
            expected=expected,
        )
