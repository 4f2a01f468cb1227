"""Files that are whole or absent: atomic writes and content hashes.

Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellseg1_rt.errors import ConfigError

__all__ = ["atomic_path", "require_writable_folder", "sha256_of_file"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    The temporary name keeps the suffix, so writers that choose a format by suffix still do. On an
    error nothing is left and what stood at ``path`` is unchanged.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; what is kept gets the permissions any new file would get.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable_folder(folder: Path) -> Path:
    """Create ``folder`` if needed and prove that a file can be made in it.

    Raises
    ------
    ConfigError : if it is a file, cannot be created, or refuses a new file.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            "cannot write into this folder",
            where=folder,
            got=error.strerror or type(error).__name__,
            expected="a folder where files can be made",
            fix="choose another output folder or change its permissions",
        ) from error
    return folder


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 lower-case hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
