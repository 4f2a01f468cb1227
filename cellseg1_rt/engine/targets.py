"""Which cards an engine is for, as far as the library builds for them.

Imports nothing of TensorRT: the module is passed in.
"""

from __future__ import annotations

from typing import Any

from cellseg1_rt.backends.tensorrt_library import load_library, present_target
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.errors import ConfigError

__all__ = ["require_card", "resolve_targets"]


def resolve_targets(trt: Any, flavor: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets an engine is built for, in the library's own order.

    Parameters
    ----------
    trt : the flavour's module.
    flavor : ``tensorrt-rtx`` builds for any card it knows, with none present; ``tensorrt`` builds
        on the card and for it.
    targets : what is asked for; for ``tensorrt`` none, or the card's own.

    Raises
    ------
    ConfigError : if the library has no such target, or the card is another.
    RuntimeUnavailableError : if a card is needed and its driver does not load.
    """
    if flavor == "tensorrt":
        present = present_target(flavor)
        if targets and targets != (present,):
            raise ConfigError(
                "tensorrt builds for the card it runs on, and that is another",
                where="targets",
                got=", ".join(targets),
                expected=present,
                fix="build on the card, or with --flavor tensorrt-rtx for RTX cards",
            )
        return (present,)
    known = {
        f"sm_{name.removeprefix('SM')}": name
        for name in trt.ComputeCapability.__members__
        if name.startswith("SM")
    }
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise ConfigError(
            f"tensorrt-rtx {trt.__version__} builds no engines for these cards",
            where="targets",
            got=", ".join(unknown),
            expected=", ".join(known),
            fix="--flavor tensorrt on the card itself, or --runtime onnxruntime",
        )
    return tuple(target for target in known if target in targets)


def require_card(recipe: EngineRecipe) -> None:
    """Refuse to verify on a machine whose card the engines are not for.

    Raises
    ------
    MissingExtraError, RuntimeUnavailableError : if the library, the driver or a card is missing.
    ConfigError : if the card is of another kind.
    """
    load_library(recipe.flavor, "build-engine --verify")
    present = present_target(recipe.flavor)
    if recipe.targets and present not in recipe.targets:
        raise ConfigError(
            "engines are verified on the card they are for, and this is another",
            where="--verify",
            got=present,
            expected=" or ".join(recipe.targets),
            fix=f"--target {present}, or leave --verify out",
        )
