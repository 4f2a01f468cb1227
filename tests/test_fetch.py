"""Against a server on the loopback interface that can cut, refuse and forget."""

import errno
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cellseg1_rt import fetch
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.fetch import CHECKPOINTS, Checkpoint, fetch_sam

CONTENT = bytes(value % 251 for value in range(100_003))
NAME = "sam_vit_b_01ec64.pth"


@dataclass
class Server:
    """What it serves, what it does wrong, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    resumes: bool = True
    says_length: bool = True
    cuts: list[int] = field(default_factory=list)
    """Bytes of the body sent before the connection is cut, one entry a request."""
    statuses: list[int] = field(default_factory=list)
    """Answers given before any content is."""
    wrong_start: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append({key.lower(): value for key, value in handler.headers.items()})
        if self.statuses:
            handler.send_response(self.statuses.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = self.start(self.requests[-1])
        if start >= len(self.content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            first = 0 if self.wrong_start else start
            last = len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        if self.says_length:
            handler.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        body = self.content[start:]
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
        handler.close_connection = True

    def start(self, headers: dict[str, str]) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        same = headers.get("if-range") in (None, self.etag)
        return int(asked[1]) if asked and same and self.resumes else 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path == f"/mirror/{NAME}"
            state.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    known = Checkpoint(NAME, sha256(CONTENT).hexdigest())
    monkeypatch.setitem(CHECKPOINTS, "vit_b", known)
    monkeypatch.setattr(fetch, "RETRY_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 1009)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/mirror/"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def ranges(server: Server) -> list[str | None]:
    return [request.get("range") for request in server.requests]


def test_official_checkpoints():
    assert {name: known.file_name for name, known in CHECKPOINTS.items()} == {
        "vit_h": "sam_vit_h_4b8939.pth",
        "vit_l": "sam_vit_l_0b3195.pth",
        "vit_b": "sam_vit_b_01ec64.pth",
    }
    for known in CHECKPOINTS.values():
        assert re.fullmatch("[0-9a-f]{64}", known.sha256)
    assert fetch.OFFICIAL_URL.startswith("https://")


def test_fetches_and_does_not_fetch_again(tmp_path: Path, server: Server):
    seen: list[tuple[int, int | None]] = []
    path = fetch_sam("vit_b", tmp_path / "new", server.url, lambda *now: seen.append(now))
    assert path == tmp_path / "new" / NAME
    assert path.read_bytes() == CONTENT
    assert seen[0] == (1009, 100_003)
    assert seen[-1] == (100_003, 100_003)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    assert fetch_sam("vit_b", tmp_path / "new", server.url) == path
    assert len(server.requests) == 1
    assert [file.name for file in path.parent.iterdir()] == [NAME]


def test_goes_on_after_a_cut(tmp_path: Path, server: Server):
    server.cuts = [40_009, 20_011]
    path = fetch_sam("vit_b", tmp_path, server.url)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=40009-", "bytes=60020-"]
    assert server.requests[1]["if-range"] == '"one"'
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_gives_up_and_a_later_run_goes_on(tmp_path: Path, server: Server):
    server.cuts = [30_011, 0, 0, 0]
    with pytest.raises(ConfigError) as caught:
        fetch_sam("vit_b", tmp_path, server.url)
    assert str(caught.value) == (
        f"{server.url}{NAME}: the download stopped; got the connection ended at byte 30011 of "
        "100003, with 30011 bytes there. Fix: run the same command again; it continues where it "
        "stopped"
    )
    assert not (tmp_path / NAME).exists()
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=30011-"


def test_a_server_that_cannot_resume_starts_again(tmp_path: Path, server: Server):
    server.resumes, server.cuts = False, [40_009]
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=40009-"]


def test_a_server_that_cannot_resume_and_always_cuts_ends(tmp_path: Path, server: Server):
    """Each attempt brings bytes, but never one further than before."""
    server.resumes, server.cuts = False, [40_009] * 99
    with pytest.raises(ConfigError, match="the download stopped; got the connection ended at byte"):
        fetch_sam("vit_b", tmp_path, server.url)
    assert len(server.requests) == 4


def test_another_file_on_the_server_starts_again(tmp_path: Path, server: Server):
    (tmp_path / f"{NAME}.part").write_bytes(b"\x07" * 5_003)
    (tmp_path / f"{NAME}.part.etag").write_text('"old"')
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests[0]["if-range"] == '"old"'
    assert len(server.requests) == 1


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_the_range_is_enough(
    tmp_path: Path, server: Server, etag: str | None
):
    server.etag, server.cuts = etag, [40_009]
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=40009-"]
    assert "if-range" not in server.requests[1]


def test_a_resume_at_another_byte_starts_again(tmp_path: Path, server: Server):
    server.wrong_start, server.cuts = True, [40_009]
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=40009-", None]


def test_a_part_that_is_already_whole(tmp_path: Path, server: Server):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100003-"]


def test_a_part_that_is_too_long_starts_again(tmp_path: Path, server: Server):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"tail")
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100007-", None]


def test_without_a_length_the_hash_decides(tmp_path: Path, server: Server):
    server.says_length = False
    seen: list[tuple[int, int | None]] = []
    fetch_sam("vit_b", tmp_path, server.url, lambda *now: seen.append(now))
    assert seen[-1] == (100_003, None)


def test_wrong_content_is_removed(tmp_path: Path, server: Server):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(WeightsError) as caught:
        fetch_sam("vit_b", tmp_path, server.url)
    assert str(caught.value).startswith(
        f"{server.url}{NAME}: the fetched file has another SHA-256 and was removed; "
        f"got {sha256(server.content).hexdigest()}; expected {sha256(CONTENT).hexdigest()}"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_in_place_is_replaced(tmp_path: Path, server: Server):
    (tmp_path / NAME).write_bytes(b"half a checkpoint")
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server):
    server.statuses = [503, 429]
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    server.statuses = [500] * 9
    with pytest.raises(ConfigError, match="the download stopped; got the server answered 500"):
        fetch_sam("vit_b", tmp_path / "other", server.url)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(tmp_path: Path, server: Server, status: int):
    server.statuses = [status] * 9
    with pytest.raises(ConfigError, match=rf"{NAME}: the server refused; got {status} "):
        fetch_sam("vit_b", tmp_path, server.url)
    assert len(server.requests) == 1


def test_nobody_answers(tmp_path: Path, server: Server):
    closed = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    closed.server_close()
    with pytest.raises(ConfigError, match=r"the download stopped; got .*refused.* 0 bytes there"):
        fetch_sam("vit_b", tmp_path, f"http://127.0.0.1:{closed.server_port}/")


class FullDisk:
    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, chunk: bytes) -> int:
        if self.file.tell() > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(chunk)


def test_a_full_disk_is_named_and_keeps_what_is_there(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
):
    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "open",
            lambda path, mode="r", *args, **options: (
                FullDisk(opened(path, mode, *args, **options))
                if path.suffix == ".part" and mode in ("ab", "wb")
                else opened(path, mode, *args, **options)
            ),
        )
        with pytest.raises(ConfigError, match=r"\.part: cannot write; got No space left on device"):
            fetch_sam("vit_b", tmp_path, server.url)
    assert fetch_sam("vit_b", tmp_path, server.url).read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=10090-"


def test_a_folder_that_is_a_file(tmp_path: Path, server: Server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot write into this folder"):
        fetch_sam("vit_b", tmp_path / "file", server.url)
    assert not server.requests


def test_unknown_names_and_addresses(tmp_path: Path):
    with pytest.raises(
        ConfigError, match="vit_x: no such checkpoint; expected one of vit_h, vit_l"
    ):
        fetch_sam("vit_x", tmp_path)
    with pytest.raises(ConfigError, match=r"base URL: not an address; got file:///etc; expected"):
        fetch_sam("vit_b", tmp_path, "file:///etc")
