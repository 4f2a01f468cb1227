"""Errors a person can act on.

Every error of this package is one line that says what is wrong, where, what was found, what was
expected, and what to do about it. The class says who has to act; the CLI makes it an exit code.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CellSeg1RtError",
    "ConfigError",
    "InputError",
    "MissingExtraError",
    "RuntimeUnavailableError",
    "VerificationError",
    "WeightsError",
]


class CellSeg1RtError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : what is wrong, as a sentence without its full stop.
    where : the file, field, tensor or argument it is wrong in.
    got, expected : what was found there, and what would have been right.
    fix : the next thing to do, in the imperative.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        parts = [what if where is None else f"{where}: {what}"]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        line = "; ".join(parts)
        if fix is not None:
            line += f". Fix: {fix}"
        super().__init__(" ".join(line.split()))


class InputError(CellSeg1RtError):
    """An image, label map or table that cannot be read or used."""

    exit_code = 1


class ConfigError(CellSeg1RtError):
    """A setting, recipe, path or command line that cannot be followed."""


class WeightsError(CellSeg1RtError):
    """A checkpoint or LoRA file that is damaged or made for another model."""


class BundleError(CellSeg1RtError):
    """A bundle whose manifest, graphs or hashes do not fit the contract."""


class VerificationError(CellSeg1RtError):
    """A result outside its tolerance: graph, tensor and figure are named."""


class RuntimeUnavailableError(CellSeg1RtError):
    """A runtime library or device that is not there."""


class MissingExtraError(CellSeg1RtError, ImportError):
    """A package that comes with an extra which is not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            fix=f"pip install 'cellseg1-rt[{extra}]'",
        )
