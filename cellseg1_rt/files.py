"""Files that are whole or absent: atomic writes and content hashes.

Imports the standard library only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellseg1_rt.errors import ConfigError

__all__ = [
    "TEMPORARY_PREFIX",
    "atomic_path",
    "require_writable_folder",
    "sha256_of_file",
    "sync_folder",
]

TEMPORARY_PREFIX = ".cellseg1-rt-"
"""What the names of unfinished files begin with. A killed process leaves such files behind."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    The temporary name keeps the suffix, so writers that choose a format by suffix still do. On an
    error nothing is left and what stood at ``path`` is unchanged. When the block has ended, the
    file and its name are on the disk: both were flushed, so a power cut does not undo them.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}")
    # Made here, so that it is new and has the permissions that the umask gives to any new file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, after files were made, renamed or removed there."""
    if sys.platform == "win32":  # which neither can nor needs to open a folder for this
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems say that have no such flush
            raise
    finally:
        os.close(handle)


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
