"""An engine recipe (``engines/*.toml``), checked: which cards, which library, how much at once.

Imports the standard library only.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from cellseg1_rt.contract import GRAPHS, PRECISIONS
from cellseg1_rt.engine_files import Span
from cellseg1_rt.errors import ConfigError

__all__ = ["FLAVORS", "Card", "EngineRecipe"]

FLAVORS = ("tensorrt-rtx", "tensorrt")
_AXES = {"images": "B", "prompts": "N", "masks": "M"}
"""What a recipe calls the dynamic axes of the contract."""
_TARGET = re.compile(r"sm_\d{2,3}")
_HARDWARE = ("none", "ampere_plus", "same_compute_capability")
_TYPES = {
    "flavor": str,
    "targets": list,
    "precisions": list,
    "profile": dict,
    "card": dict,
    "workspace_mbytes": int,
    "version_compatible": bool,
    "hardware_compatibility": str,
}
_NEEDED = ("flavor", "targets", "precisions", "profile", "card")


@dataclass(frozen=True)
class Card:
    """The smallest card a recipe is for.

    Attributes
    ----------
    memory_gbytes : its memory, in 10⁹ bytes (a card sold with "8 GB" has a little more).
    budget_share : the share of it that weights, activations, inputs and outputs may take; the rest
        is for the driver, compiled kernels, masks and the desktop.
    """

    memory_gbytes: float
    budget_share: float

    @property
    def budget_bytes(self) -> int:
        """The share, in bytes."""
        return int(self.memory_gbytes * 1e9 * self.budget_share)


@dataclass(frozen=True)
class EngineRecipe:
    """How engines are built for a family of cards.

    Attributes
    ----------
    flavor : the library, one of ``FLAVORS``.
    targets : compute capabilities, as ``sm_89``; none means the card that is present.
    precisions : what a bundle may be typed in for these cards.
    profile : for each dynamic axis (``B`` images, ``N`` prompts, ``M`` masks), its span.
    card : the smallest card it has to fit.
    workspace_mbytes : most scratch memory a layer may ask for, in 10⁶ bytes; 0 sets no limit.
    version_compatible : whether later versions of the library may run the plan.
    hardware_compatibility : whether other generations may run it (``tensorrt`` only).
    """

    flavor: str
    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    profile: dict[str, Span]
    card: Card
    workspace_mbytes: int = 0
    version_compatible: bool = False
    hardware_compatibility: str = "none"

    def __post_init__(self) -> None:
        _require_one_of("flavor", self.flavor, FLAVORS)
        _require_one_of("hardware_compatibility", self.hardware_compatibility, _HARDWARE)
        for target in self.targets:
            if not isinstance(target, str) or not _TARGET.fullmatch(target):
                raise _refused("targets", repr(target), "compute capabilities such as sm_89")
        if len(set(self.targets)) != len(self.targets):
            raise _refused("targets", ", ".join(self.targets), "each one once")
        if not self.precisions:
            raise _refused("precisions", "none", f"at least one of {', '.join(PRECISIONS)}")
        for precision in self.precisions:
            _require_one_of("precisions", precision, PRECISIONS)
        if self.workspace_mbytes < 0:
            raise _refused("workspace_mbytes", self.workspace_mbytes, "a number from 0 on")
        self._require_what_the_flavor_has()
        prompts, masks = self.profile["N"], self.profile["M"]
        if masks.max > prompts.max:
            raise _refused(
                "profile.masks", f"max {masks.max}", f"at most the prompts' max, {prompts.max}"
            )

    def _require_what_the_flavor_has(self) -> None:
        if self.flavor == "tensorrt":
            if len(self.targets) > 1:
                raise _refused(
                    "targets", ", ".join(self.targets), "one at most: tensorrt builds on the card"
                )
            return
        if not self.targets:
            raise _refused("targets", "none", "at least one for tensorrt-rtx, such as sm_89")
        # Measured with 1.7.1: the flag asks for a lean runtime that its packages do not hold, and
        # the level is answered with a warning and ignored.
        if self.version_compatible:
            raise _refused("version_compatible", "true", "false: tensorrt-rtx has no lean runtime")
        if self.hardware_compatibility != "none":
            raise _refused(
                "hardware_compatibility",
                self.hardware_compatibility,
                "none: tensorrt-rtx takes several targets instead",
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineRecipe:
        """A recipe from its TOML tables.

        Raises
        ------
        ConfigError : on a missing or unknown key, a value of another type, a span that is none, or
            what the flavour does not have.
        """
        _require_keys(values, "top level", _NEEDED, tuple(_TYPES))
        for name, value in values.items():
            wanted = _TYPES[name]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise _refused(name, repr(value), f"a value of type {wanted.__name__}")
        profile = values["profile"]
        _require_keys(profile, "[profile]", tuple(_AXES), tuple(_AXES))
        return cls(
            **{
                **values,
                "targets": tuple(values["targets"]),
                "precisions": tuple(values["precisions"]),
                "profile": {_AXES[name]: _span(name, profile[name]) for name in _AXES},
                "card": _card(values["card"]),
            }
        )

    def updated(
        self,
        *,
        flavor: str | None = None,
        targets: tuple[str, ...] = (),
        prompt_batch: int | None = None,
        card_gbytes: float | None = None,
    ) -> EngineRecipe:
        """A copy with what the command line changes.

        A smaller prompt batch takes the masks' span with it, which cannot be above it.
        """
        changed = self
        if flavor is not None:
            # TensorRT builds for the card it runs on: the recipe's targets are the other flavour's.
            kept = () if flavor == "tensorrt" != self.flavor else self.targets
            changed = replace(changed, flavor=flavor, targets=targets or kept)
        if targets:
            changed = replace(changed, targets=targets)
        if prompt_batch is not None:
            if prompt_batch < 1:
                raise ConfigError("out of range", where="--prompt-batch", got=prompt_batch)
            profile = dict(changed.profile)
            profile["N"] = Span(min(profile["N"].min, prompt_batch), prompt_batch, prompt_batch)
            profile["M"] = Span(
                *(min(rows, prompt_batch) for rows in asdict(profile["M"]).values())
            )
            changed = replace(changed, profile=profile)
        if card_gbytes is not None:
            share = changed.card.budget_share
            changed = replace(
                changed, card=_card({"memory_gbytes": card_gbytes, "budget_share": share})
            )
        return changed

    def profile_of(self, graph: str) -> dict[str, Span]:
        """The spans of one graph's dynamic axes."""
        axes = {axis for tensor in GRAPHS[graph].inputs for axis in tensor.shape}
        return {axis: span for axis, span in self.profile.items() if axis in axes}

    def require_precision(self, precision: str) -> None:
        """Refuse a bundle whose precision these cards are not for."""
        if precision not in self.precisions:
            raise ConfigError(
                "this recipe is not for bundles of that precision",
                where="precisions",
                got=precision,
                expected=" or ".join(self.precisions),
                fix=f"export the bundle with --precision {self.precisions[0]}, or choose another "
                "recipe",
            )


def _span(name: str, table: Any) -> Span:
    where = f"[profile] {name}"
    if not isinstance(table, dict):
        raise _refused(where, repr(table), "a table { min = …, opt = …, max = … }")
    _require_keys(table, where, ("min", "opt", "max"), ("min", "opt", "max"))
    if any(not isinstance(rows, int) or isinstance(rows, bool) for rows in table.values()):
        raise _refused(where, table, "whole numbers")
    span = Span(**table)
    if not 1 <= span.min <= span.opt <= span.max:
        raise _refused(
            where, f"min {span.min}, opt {span.opt}, max {span.max}", "1 ≤ min ≤ opt ≤ max"
        )
    return span


def _card(table: dict[str, Any]) -> Card:
    names = ("memory_gbytes", "budget_share")
    _require_keys(table, "[card]", names, names)
    for name, value in table.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _refused(f"[card] {name}", repr(value), "a number")
        if not (math.isfinite(value) and value > 0):
            raise _refused(f"[card] {name}", value, "a number above 0")
    card = Card(**table)
    if card.budget_share > 1:
        raise _refused("[card] budget_share", card.budget_share, "a share up to 1")
    return card


def _require_keys(
    table: dict[str, Any], where: str, needed: tuple[str, ...], known: tuple[str, ...]
) -> None:
    for problem, names in (
        ("missing", set(needed) - table.keys()),
        ("unknown", table.keys() - set(known)),
    ):
        if names:
            raise ConfigError(
                f"{problem} key",
                where=f"engine recipe, {where}",
                got=", ".join(sorted(names)),
                expected=", ".join(known),
            )


def _require_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise _refused(name, repr(value), f"one of {', '.join(known)}")


def _refused(name: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        "cannot be followed", where=f"engine recipe, {name}", got=got, expected=expected
    )
