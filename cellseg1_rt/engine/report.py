"""What was built, as lines and as stable JSON. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cellseg1_rt.engine.build import BuiltEngines
from cellseg1_rt.engine.recipe import EngineRecipe

__all__ = ["lines_of", "report_of"]

_HEADER = (
    f"{'graph':16}{'layers':>8}{'build s':>9}{'plan MB':>10}{'weights MB':>12}"
    f"{'activations MB':>16}"
)


def lines_of(built: BuiltEngines, recipe: EngineRecipe) -> Iterator[str]:
    """A table of one target's three engines, and their memory beside the card's."""
    key = built.engines["encoder"].key
    spans = recipe.profile
    yield (
        f"{', '.join(built.targets)}: {key.flavor} {key.version}, {key.precision}, up to "
        f"{spans['B'].max} images, {spans['N'].max} prompts and {spans['M'].max} masks a call"
    )
    yield _HEADER
    for name, engine in built.engines.items():
        figures = engine.figures
        seconds = "kept" if name in built.kept else f"{figures.build_seconds:.1f}"
        yield (
            f"{name:16}{figures.layers:>8}{seconds:>9}{engine.plan_bytes / 1e6:>10.1f}"
            f"{figures.weights_bytes / 1e6:>12.1f}{figures.activation_bytes / 1e6:>16.1f}"
        )
    total = built.footprint
    yield f"{'inputs, outputs':16}{total.buffer_bytes / 1e6:>55.1f}"
    yield (
        f"at run time {total.total_bytes / 1e6:.0f} MB, of {recipe.card.budget_bytes / 1e6:.0f} MB "
        f"allowed ({recipe.card.budget_share:g} of a card's {recipe.card.memory_gbytes:g} GB)"
    )


def report_of(built: BuiltEngines, recipe: EngineRecipe) -> dict[str, Any]:
    """The same as plain values, sizes in bytes."""
    return {
        "targets": list(built.targets),
        "engines": {
            name: {**engine.to_dict(), "plan": str(engine.plan), "kept": name in built.kept}
            for name, engine in built.engines.items()
        },
        "memory": {
            **asdict(built.footprint),
            "total_bytes": built.footprint.total_bytes,
            "budget_bytes": recipe.card.budget_bytes,
        },
    }
