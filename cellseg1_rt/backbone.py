"""The numbers that make one SAM image encoder differ from another.

Imports the standard library only, so that a manifest can be read without torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from cellseg1_rt.errors import ConfigError

__all__ = ["PATCH_SIZE", "Backbone"]

PATCH_SIZE = 16
"""Side of a SAM patch in input pixels; the embedding grid is ``image_size // PATCH_SIZE``."""


@dataclass(frozen=True)
class Backbone:
    """Shape of SAM's image encoder. Prompt encoder and mask decoder are the same in every SAM.

    Attributes
    ----------
    name : what recipes and manifests call it.
    embed_dim : channels of a token.
    depth : transformer blocks.
    num_heads : attention heads a block.
    global_attn_indexes : blocks that attend over the whole grid; the others attend in windows.
    window_size : side of a window, in tokens.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "window_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    "not a positive integer", where=f"backbone.{name}", got=repr(value)
                )
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                "heads do not divide the width",
                where="backbone.num_heads",
                got=f"{self.num_heads} heads for {self.embed_dim} channels",
            )
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ConfigError(
                "a global block that does not exist",
                where="backbone.global_attn_indexes",
                got=list(self.global_attn_indexes),
                expected=f"indexes below {self.depth}",
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Backbone:
        """A backbone from a recipe's or manifest's table.

        Raises
        ------
        ConfigError : on a missing or unknown field, or a value that makes no encoder.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(
                "fields do not fit",
                where="backbone",
                got=", ".join(sorted(values)) or "nothing",
                expected=", ".join(sorted(expected)),
            )
        indexes = values["global_attn_indexes"]
        if not isinstance(indexes, list | tuple):
            raise ConfigError("not a list", where="backbone.global_attn_indexes", got=repr(indexes))
        return cls(**{**values, "global_attn_indexes": tuple(indexes)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {**asdict(self), "global_attn_indexes": list(self.global_attn_indexes)}
