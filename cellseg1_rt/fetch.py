"""Fetches SAM's official checkpoints: resumable, and checked by SHA-256.

Does not read them (``model/weights.py`` does). Imports the standard library only.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.files import require_writable_folder, sha256_of_file

__all__ = ["CHECKPOINTS", "OFFICIAL_URL", "Checkpoint", "Progress", "fetch_sam"]

OFFICIAL_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
RETRY_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Waits between attempts that bring nothing new; an attempt that does starts the count again."""
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]
"""Called with the bytes there are and those there will be, None where the server does not say."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that Meta publishes, and its SHA-256 as 64 lower-case hex digits."""

    file_name: str
    sha256: str


CHECKPOINTS = {
    "vit_h": Checkpoint(
        "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
    "vit_l": Checkpoint(
        "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_b": Checkpoint(
        "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
}


class _TransferError(Exception):
    """The transfer stopped for a reason that may pass."""


def fetch_sam(
    name: str, folder: Path | str, base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Fetch an official checkpoint into a folder, going on where an earlier attempt stopped.

    What has arrived lies beside the target as ``.part`` until it is whole and its hash is right. A
    target that is already there and right is not fetched again; a wrong one is replaced.

    Parameters
    ----------
    name : ``vit_h``, ``vit_l`` or ``vit_b``.
    folder : made if needed.
    base_url : where a mirror keeps the files, http or https; None takes Meta's server.
    progress : told how far it is, in bytes.

    Returns
    -------
    The checkpoint's path.

    Raises
    ------
    ConfigError : on an unknown name or address, a folder or disk that cannot be written, a server
        that refuses, or a connection that keeps failing.
    WeightsError : if what arrived has another hash; it is removed.
    """
    checkpoint = CHECKPOINTS.get(name)
    if checkpoint is None:
        raise ConfigError(
            "no such checkpoint", where=name, expected=f"one of {', '.join(CHECKPOINTS)}"
        )
    base_url = base_url or OFFICIAL_URL
    if not base_url.startswith(("https://", "http://")):
        raise ConfigError("not an address", where="base URL", got=base_url, expected="https://...")
    target = Path(folder) / checkpoint.file_name
    if target.is_file() and sha256_of_file(target) == checkpoint.sha256:
        return target
    part = require_writable_folder(Path(folder)) / f"{checkpoint.file_name}.part"
    url = f"{base_url.rstrip('/')}/{checkpoint.file_name}"
    _download(url, part, progress or (lambda done, total: None))
    found = sha256_of_file(part)
    _etag_file(part).unlink(missing_ok=True)
    if found != checkpoint.sha256:
        part.unlink()
        raise WeightsError(
            "the fetched file has another SHA-256 and was removed",
            where=url,
            got=found,
            expected=checkpoint.sha256,
            fix="fetch it again; if that repeats, the server has another file",
        )
    part.replace(target)
    return target


def _download(url: str, part: Path, progress: Progress) -> None:
    """Bring ``part`` to its full length, over as many connections as it takes."""
    farthest, failures = _size(part), 0
    while True:
        try:
            _transfer(url, part, progress)
            return
        except _TransferError as error:
            # A server that cannot resume starts again each time: only a new farthest byte counts.
            failures = 0 if _size(part) > farthest else failures + 1
            farthest = max(farthest, _size(part))
            if failures > len(RETRY_PAUSES_S):
                raise ConfigError(
                    "the download stopped",
                    where=url,
                    got=f"{error}, with {_size(part)} bytes there",
                    fix="run the same command again; it continues where it stopped",
                ) from error
            time.sleep(RETRY_PAUSES_S[max(failures - 1, 0)])


def _transfer(url: str, part: Path, progress: Progress) -> None:
    """One connection: append what it brings to ``part``."""
    offset = _size(part)
    try:
        response = urlopen(Request(url, headers=_headers(part, offset)), timeout=TIMEOUT_S)
    except HTTPError as error:
        with error:
            _refused(error, part, offset)
        return
    except (OSError, HTTPException) as error:
        raise _TransferError(_reason(error)) from error
    with response:
        if response.status != 206:
            offset = 0
        elif _content_range(response.headers)[0] != offset:
            part.unlink()
            raise _TransferError("the server resumed at another byte")
        total = _total(response.headers, offset)
        with _writing(part), part.open("ab" if offset else "wb") as file:
            _keep_etag(part, response.headers)
            for chunk in _chunks(response):
                file.write(chunk)
                offset += len(chunk)
                progress(offset, total)
            file.flush()
            os.fsync(file.fileno())
    # http.client ends a body that is cut short like one that is complete.
    if total is not None and offset < total:
        raise _TransferError(f"the connection ended at byte {offset} of {total}")


def _headers(part: Path, offset: int) -> dict[str, str]:
    headers = {"User-Agent": "cellseg1-rt"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if _etag_file(part).is_file():
            # The server sends the whole file, status 200, if it is no longer the one begun with.
            headers["If-Range"] = _etag_file(part).read_text(encoding="ascii")
    return headers


def _refused(error: HTTPError, part: Path, offset: int) -> None:
    """Return if there is nothing left to fetch; raise what is to be done otherwise."""
    if error.code == 416 and offset:
        if _content_range(error.headers)[1] == offset:
            return
        part.unlink()
        raise _TransferError("the server has fewer bytes than are there") from error
    if error.code in RETRIED_STATUSES:
        raise _TransferError(f"the server answered {error.code} {error.reason}") from error
    raise ConfigError(
        "the server refused",
        where=error.url,
        got=f"{error.code} {error.reason}",
        fix="check the address, or fetch the file in a browser and put it into the folder",
    ) from error


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and total of ``Content-Range``, RFC 9110 section 14.4; None where not said."""
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip()
    )
    if not found:
        return None, None
    first, total = found.groups()
    return int(first) if first else None, int(total) if total != "*" else None


def _total(headers: Message, offset: int) -> int | None:
    total = _content_range(headers)[1]
    length = headers.get("Content-Length", "")
    return total if total or not length.isdecimal() else offset + int(length)


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            raise _TransferError(_reason(error)) from error
        if not chunk:
            return
        yield chunk


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "cannot write",
            where=part,
            got=error.strerror or type(error).__name__,
            fix="make room or check permissions, then run the same command again; it continues",
        ) from error


def _keep_etag(part: Path, headers: Message) -> None:
    etag = headers.get("ETag", "")
    # Only a strong one may stand in If-Range (RFC 9110 section 13.1.5).
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):
        _etag_file(part).write_text(etag, encoding="ascii")
    else:
        _etag_file(part).unlink(missing_ok=True)


def _etag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__
