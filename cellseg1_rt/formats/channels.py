"""Which channels of an image are kept, chosen by number or by name.

Imports the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats.planes import ChannelChoice

__all__ = ["MOST_CHANNELS", "parse_channels", "picked_channels"]

MOST_CHANNELS = 4
"""Grey, two channels, RGB or RGBA: what the model's input can be made of."""


def parse_channels(text: str) -> tuple[int | str, ...]:
    """Channels from ``0,2`` or ``DAPI,GFP``; what is all digits is a number, not a name.

    Raises
    ------
    ConfigError : if one of them is empty, or there are more than four.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(parts) > MOST_CHANNELS:
        raise ConfigError(
            "not a choice of channels",
            where="--channels",
            got=repr(text),
            expected=f"1 to {MOST_CHANNELS} numbers or names, as in 0,2 or DAPI,GFP",
        )
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def picked_channels(
    count: int,
    choice: ChannelChoice | None,
    *,
    where: object,
    names: Sequence[str] = (),
    axis: str = "C",
    fix: str = "choose channels, as in --channels 0,2",
) -> list[int]:
    """The channels to read, counted from 0, in the order in which they were asked for.

    Parameters
    ----------
    count : channels that the image has.
    choice : numbers and names; None keeps all, of which there may be at most four.
    where : the image, for errors.
    names : what the file calls its channels; empty where it does not name them.
    axis : what the file calls the axis.
    fix : what to do where there are too many.

    Raises
    ------
    InputError : if there is no such channel, none or more than four were asked for, a name is
        unknown or means several, or there are more than four and no choice.
    """
    if choice is None:
        if count > MOST_CHANNELS:
            raise InputError(
                "too many channels",
                where=where,
                got=f"{count} channels on axis {axis}{_named(names)}",
                expected=f"at most {MOST_CHANNELS}",
                fix=fix,
            )
        return list(range(count))
    numbers = [_number_of(each, names) for each in choice]
    if not 1 <= len(numbers) <= MOST_CHANNELS or not all(
        number is not None and 0 <= number < count for number in numbers
    ):
        raise InputError(
            "no such choice of channels",
            where=where,
            got=f"channels {', '.join(str(each) for each in choice) or 'none'}",
            expected=f"1 to {MOST_CHANNELS} of the channels 0 to {count - 1}{_named(names)}",
            fix="choose others with --channels",
        )
    return [number for number in numbers if number is not None]


def _number_of(channel: int | str, names: Sequence[str]) -> int | None:
    """Its number; None where a name is not there, or stands for several."""
    if not isinstance(channel, str):
        return channel
    return names.index(channel) if list(names).count(channel) == 1 else None


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if any(names) else ""
