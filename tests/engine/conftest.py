"""Real engines of the packaged bundle, built once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cellseg1_rt.contract import Manifest, read_manifest
from cellseg1_rt.engine.build import BuildOptions, BuiltEngines, build_engines
from cellseg1_rt.engine.recipe import Card, EngineRecipe
from cellseg1_rt.engine_files import Span
from cellseg1_rt.recipes import read_recipe


@pytest.fixture(scope="session")
def recipe() -> EngineRecipe:
    """RTX 40 and 50 at small sizes, which builds as the real one does but is quick to look at."""
    return replace(
        EngineRecipe.from_dict(read_recipe("engine", "rtx40")),
        targets=("sm_89", "sm_120"),
        profile={"B": Span(1, 1, 1), "N": Span(1, 2, 3), "M": Span(1, 1, 2)},
        card=Card(8.0, 0.5),
    )


@pytest.fixture(scope="session")
def tiny_manifest(tiny_folder: Path) -> Manifest:
    return read_manifest(tiny_folder)


@pytest.fixture(scope="session")
def engines(
    tiny_folder: Path, recipe: EngineRecipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[BuiltEngines]]:
    """A folder of engines for both targets, to be read only."""
    folder = tmp_path_factory.mktemp("engines")
    return folder, build_engines(tiny_folder, recipe, BuildOptions(folder))


@pytest.fixture
def engines_copy(engines: tuple[Path, list[BuiltEngines]], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of those of one target, to be damaged."""

    def copy(target: str) -> Path:
        folder = tmp_path / "engines"
        folder.mkdir()
        for path in engines[0].glob(f"*.{target}.*"):
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return copy
