"""Finds and reads recipes: the TOML files a user edits to say how something is made.

A recipe is named by its file (``my_cells.toml``) or, for the ones that ship, by its stem
(``vit_h``). Imports the standard library only.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError

__all__ = ["read_recipe", "recipe_names"]

_PACKAGE = Path(__file__).parent
# In a checkout the recipes of exports and engines lie at the top level, where users look for them;
# a wheel carries the same files inside the package.
_FOLDERS = {
    "export": (_PACKAGE / "_recipes" / "export", _PACKAGE.parent / "export"),
    "engine": (_PACKAGE / "_recipes" / "engines", _PACKAGE.parent / "engines"),
    "train": (_PACKAGE / "train" / "recipes",),
}


def recipe_names(kind: str) -> list[str]:
    """Stems of the recipes that ship for ``kind``: ``export``, ``engine`` or ``train``."""
    return sorted(path.stem for folder in _FOLDERS[kind] for path in folder.glob("*.toml"))


def read_recipe(kind: str, name: str | Path) -> dict[str, Any]:
    """The tables of a recipe, unchecked.

    Parameters
    ----------
    kind : ``export``, ``engine`` or ``train``.
    name : the stem of a recipe that ships, or the path of a ``.toml`` file.

    Raises
    ------
    ConfigError : if there is no such recipe, or it is not TOML.
    """
    path = Path(name)
    if path.suffix != ".toml":
        candidates = [folder / f"{name}.toml" for folder in _FOLDERS[kind]]
        path = next((file for file in candidates if file.is_file()), candidates[-1])
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no such {kind} recipe",
            where=name,
            expected=f"one of {', '.join(recipe_names(kind))}, or the path of a .toml file",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{kind} recipe cannot be read", where=path, got=error) from error
