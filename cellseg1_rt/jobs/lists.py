"""Text lists of images: ``@list.txt`` on a command line stands for the paths in that file.

Imports the standard library.
"""

from __future__ import annotations

from pathlib import Path

from cellseg1_rt.errors import ConfigError

__all__ = ["paths_in_list"]


def paths_in_list(item: str | Path) -> list[Path]:
    """The paths in the text file of ``@FILE``: one a line, UTF-8, relative to the file's folder.

    Lines may be folders and globs too. Empty lines, and those that begin with ``#``, are left out.

    Raises
    ------
    ConfigError : if the file cannot be read, or no line is left.
    """
    path = Path(str(item)[1:])
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(
            "cannot read this list of images",
            where=path,
            got=error.strerror or type(error).__name__,
            expected="a text file with a path a line",
            fix="check the path; a file whose own name begins with @ is given as ./@name",
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    paths = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise ConfigError("no images here", where=path, expected="a path a line")
    return paths
