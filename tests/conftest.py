"""Fixtures shared by all tests: the packaged bundle, a sample, the command line in-process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cellseg1_rt
from cellseg1_rt.bundles import PACKAGED, SAMPLES


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny() -> cellseg1_rt.Model:
    """The packaged bundle, loaded once."""
    return cellseg1_rt.load("tiny")


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return PACKAGED["tiny"]


@pytest.fixture(scope="session")
def sample() -> Path:
    """A packaged image of 256×256 px."""
    return SAMPLES / "images" / "27c30f901149.png"


@pytest.fixture(scope="session")
def swappable(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Swappable bundles of one SAM, by the LoRA's seed and the precision; to be read only.

    The first of a precision is exported, and the others have its encoder: an export takes seconds,
    and ``test_swappable`` tests that one of another LoRA gives the same bytes.
    """
    from swappable_bundle import write_swappable

    folder = tmp_path_factory.mktemp("swappable")
    made: dict[tuple[int, str], Path] = {}

    def get(seed: int, precision: str = "fp32") -> Path:
        if (seed, precision) not in made:
            exported = [bundle for (_, held), bundle in made.items() if held == precision]
            encoder = exported[0] / "encoder.onnx" if exported else None
            place = folder / f"{seed}{precision}"
            made[seed, precision] = write_swappable(place, seed, precision, encoder)
        return made[seed, precision]

    return get


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run ``cellseg1-rt ARGUMENTS`` in this process."""
    from cellseg1_rt.cli.main import main

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["cellseg1-rt", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run
