"""The downloader against a local server that can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgedet import Error, InvalidInputError
from training.cli import main
from training.data import download
from training.data.coco import find_splits
from training.data.download import COCO2017, Archive, download_coco2017

FILES = {
    "annotations": {"annotations/instances_train2017.json": b"{}", "annotations/instances_val2017.json": b"[1]" * 999},
    "val": {f"val2017/{number:012}.jpg": bytes([number]) * 40_000 for number in range(5)},
    "train": {f"train2017/{number:012}.jpg": bytes([number]) * 70_000 for number in range(30)},
}


def zipped(files: dict[str, bytes], *, folder: str | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if folder is not None:
            archive.writestr(f"{folder}/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def described(path: str, content: bytes, files: int) -> Archive:
    return Archive(path, len(content), hashlib.md5(content).hexdigest(), COCO2017[KEYS[path]].folder, files)


KEYS = {archive.path: key for key, archive in COCO2017.items()}
CONTENT = {archive.path: zipped(FILES[key], folder=archive.folder) for key, archive in COCO2017.items()}
ARCHIVES = {key: described(a.path, CONTENT[a.path], len(FILES[key])) for key, a in COCO2017.items()}


@dataclass
class Server:
    """A server of CONTENT. cut: bytes after which a connection breaks, one entry per answer. requests: path and range.

    ranges: whether it honours Range. status: answers to give instead, one entry per request.
    """

    url: str = ""
    content: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))
    cut: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    ranges: bool = True
    shift: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def fetched(self, key: str) -> list[str | None]:
        """The ranges asked of an archive, in order."""
        return [asked for path, asked in self.requests if path == ARCHIVES[key].path]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = self.path.removeprefix("/mirror/"), self.headers.get("Range")
            state.requests.append((path, asked))
            code = state.status.pop(0) if state.status else 200
            content = state.content.get(path)
            if code != 200 or content is None:
                self.send_error(404 if content is None else code)
                return
            begin = 0
            if asked and state.ranges:
                begin = int(asked.removeprefix("bytes=").rstrip("-")) + state.shift
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            rest = content[begin:]
            with contextlib.suppress(ConnectionError):  # of clients that refuse what was announced
                self.wfile.write(rest[: state.cut.pop(0)] if state.cut else rest)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/mirror/"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def fetch(server: Server, root: Path, *splits: str, archives: dict[str, Archive] | None = None) -> None:
    download_coco2017(root, splits=splits, base_url=server.url, archives=archives or ARCHIVES, pause=0.001)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def expected(*keys: str) -> dict[str, bytes]:
    return {name: content for key in keys for name, content in FILES[key].items()}


def test_brings_all_and_does_so_once(server: Server, tmp_path: Path) -> None:
    steps: dict[str, tuple[int, int]] = {}

    def on_bytes(step: str, done: int, total: int) -> None:
        assert steps.get(step, (0, total))[0] <= done <= total
        steps[step] = (done, total)

    root = tmp_path / "data" / "coco"
    download_coco2017(root, base_url=server.url, archives=ARCHIVES, on_bytes=on_bytes)
    assert tree(root) == expected("annotations", "train", "val")
    assert len(server.requests) == 3
    names = [archive.name for archive in ARCHIVES.values()]
    assert list(steps) == [f"{verb} {name}" for name in names for verb in ("downloading", "checking", "unpacking")]
    assert all(done == total for done, total in steps.values())
    assert sorted(find_splits(root)) == ["train", "val"]
    download_coco2017(root, base_url=server.url, archives=ARCHIVES)
    assert len(server.requests) == 3


def test_a_split_alone_and_the_other_later(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")
    fetch(server, tmp_path, "train", "val")
    assert tree(tmp_path) == expected("annotations", "train", "val")
    assert len(server.requests) == 3


def test_connections_that_break_are_resumed(server: Server, tmp_path: Path) -> None:
    size = ARCHIVES["annotations"].size
    server.cut = [size, 1000, 0, 2000]
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")
    assert server.fetched("val") == [None, "bytes=1000-", "bytes=1000-", "bytes=3000-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(CONTENT["zips/val2017.zip"][:5000])
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")
    assert server.fetched("val") == ["bytes=5000-"]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_whole_part_is_not_fetched_again_and_a_longer_one_is(server: Server, tmp_path: Path, extra: int) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(CONTENT["zips/val2017.zip"] + b"x" * extra)
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")
    assert server.fetched("val") == [None] * extra


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "val2017.zip.part").write_bytes(b"x" * 5000)
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")
    assert server.fetched("val") == ["bytes=5000-"]


def test_a_server_that_sends_another_part_is_refused(server: Server, tmp_path: Path) -> None:
    server.shift = 7
    (tmp_path / "val2017.zip.part").write_bytes(CONTENT["zips/val2017.zip"][:5000])
    with pytest.raises(Error, match="or another part than was asked for"):
        fetch(server, tmp_path, "val")
    assert (tmp_path / "val2017.zip.part").stat().st_size == 5000


def test_busy_servers_are_asked_again_and_others_are_not(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429, 500]
    fetch(server, tmp_path)
    assert len(server.requests) == 4
    server.status = [403]
    with pytest.raises(Error, match=r"val2017\.zip: expected the archive, got 403 Forbidden; check --base-url"):
        fetch(server, tmp_path, "val")
    del server.content["zips/val2017.zip"]
    with pytest.raises(Error, match="got 404"):
        fetch(server, tmp_path, "val")


def test_a_server_that_stays_away(server: Server, tmp_path: Path) -> None:
    server.cut = [3000, *[0] * 20]
    with pytest.raises(Error, match=r"got 3000 and then nothing in 6 tries .*it goes on from there"):
        fetch(server, tmp_path)
    server.cut = []
    fetch(server, tmp_path)
    assert server.requests[-1][1] == "bytes=3000-"
    with pytest.raises(Error, match=r"got 0 and then nothing in 6 tries \(.*refused"):
        download_coco2017(tmp_path / "b", splits=(), base_url="http://127.0.0.1:9", archives=ARCHIVES, pause=0.001)


def test_a_wrong_checksum_removes_the_file(server: Server, tmp_path: Path) -> None:
    path = ARCHIVES["val"].path
    broken = bytearray(CONTENT[path])
    broken[5000] ^= 1
    server.content[path] = bytes(broken)
    with pytest.raises(Error, match=rf"expected {len(broken)} bytes with md5 {ARCHIVES['val'].md5}, got .*removed"):
        fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations")
    server.content[path] = CONTENT[path]
    fetch(server, tmp_path, "val")
    assert tree(tmp_path) == expected("annotations", "val")


@pytest.mark.parametrize("size", [5000, 10_000_000])
def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path, size: int) -> None:
    server.content["zips/val2017.zip"] = bytes(size)
    with pytest.raises(Error, match=rf"expected the archive of {ARCHIVES['val'].size} bytes, got {size} bytes"):
        fetch(server, tmp_path, "val")
    assert (tmp_path / "val2017.zip.part").stat().st_size == 0


def test_an_archive_that_is_there_is_checked_and_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip").write_bytes(CONTENT["zips/val2017.zip"])
    (tmp_path / "train2017.zip").write_bytes(b"something else")
    with pytest.raises(Error, match=r"train2017\.zip: expected .* got 14 bytes"):
        fetch(server, tmp_path, "train", "val")
    assert tree(tmp_path) == expected("annotations", "val")
    assert server.fetched("val") == []


def test_a_folder_with_files_missing_is_an_error(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, "val")
    next((tmp_path / "val2017").iterdir()).unlink()
    with pytest.raises(InvalidInputError, match=r"val2017: expected the 5 files of val2017\.zip, got 4; move"):
        fetch(server, tmp_path, "val")


def test_a_full_disk_is_found_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = sum(archive.size for archive in ARCHIVES.values()) + ARCHIVES["train"].size
    free = [space - 1]
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free[0]}))
    with pytest.raises(Error, match=r"expected 0\.0 GB of free disk, .*make room"):
        fetch(server, tmp_path, "train", "val")
    assert server.requests == []
    free[0] += 1
    fetch(server, tmp_path, "train", "val")
    assert tree(tmp_path) == expected("annotations", "train", "val")


def test_a_disk_that_fills_up_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 1000)
    limit = 4500

    class Full(io.FileIO):
        def write(self, data: memoryview) -> int:  # type: ignore[override]
            room = limit - self.seek(0, io.SEEK_END)
            if room == 0:
                raise OSError(28, "No space left on device")
            return super().write(data[:room])

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode, **more: Full(path, "a+") if mode == "a+b" else real(path, mode, **more)
    )
    with pytest.raises(Error, match=r"zip\.part: cannot be written \(No space left on device\); make room"):
        fetch(server, tmp_path, "val", archives={key: ARCHIVES[key] for key in ("val", "annotations")})
    assert (tmp_path / "val2017.zip.part").read_bytes() == CONTENT["zips/val2017.zip"][:limit]


def test_two_downloads_at_once(server: Server, tmp_path: Path) -> None:
    with (
        download._exclusive(tmp_path / "annotations_trainval2017.zip.part"),
        pytest.raises(Error, match="another download writes it"),
    ):
        fetch(server, tmp_path)


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("val2017/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["val2017/../../escaped"], "expected plain files in val2017/, got 'val2017/../../escaped'"),
        (["/escaped"], "got '/escaped'"),
        (["val2017/.."], "got 'val2017/..'"),
        (["other/a.jpg"], "got 'other/a.jpg'"),
        (["val2017/a\\..\\b"], "expected plain files"),
        ([link()], "got 'val2017/link'"),
        (["val2017/a"], "expected 2 files of at most .* got 1 of"),
        (["val2017/a", "val2017/b", "val2017/c"], "got 3 of"),
    ],
)
def test_archives_that_would_do_harm_are_refused(
    server: Server, tmp_path: Path, names: list[str | zipfile.ZipInfo], message: str
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    path = ARCHIVES["val"].path
    server.content[path] = stream.getvalue()
    root = tmp_path / "root"
    files = 2 if (len(names) == 1 and names[0] == "val2017/a") or len(names) > 1 else 1
    with pytest.raises(Error, match=message):
        fetch(server, root, "val", archives={**ARCHIVES, "val": described(path, stream.getvalue(), files)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "val2017.zip"]


def test_an_archive_that_unpacks_to_too_much(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val2017/bomb", bytes(5_000_000))
    path = ARCHIVES["val"].path
    server.content[path] = stream.getvalue()
    with pytest.raises(Error, match="got 1 of 5000000 bytes"):
        fetch(server, tmp_path, "val", archives={**ARCHIVES, "val": described(path, stream.getvalue(), 1)})


def test_a_broken_archive_with_the_right_sum_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    broken = bytearray(CONTENT["zips/val2017.zip"])
    broken[150:160] = b"\xff" * 10  # the content of a member, so that its CRC is wrong
    server.content["zips/val2017.zip"] = bytes(broken)
    archive = replace(ARCHIVES["val"], md5=hashlib.md5(broken).hexdigest())
    with pytest.raises(Error, match="expected a zip archive, got a broken one"):
        fetch(server, tmp_path, "val", archives={**ARCHIVES, "val": archive})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "val2017.zip"]


def test_the_command(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "coco")
    assert main(["data", "coco2017", "--root", root, "--base-url", "file:///etc"]) == 2
    assert "base URL: expected http://" in capsys.readouterr().err
    assert main(["data", "coco2017", "--root", root, "--splits", "val", "--base-url", server.url]) == 2
    assert "expected the archive of 252907541 bytes" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match="expected some of train and val, got test"):
        fetch(server, tmp_path, "test")


def test_the_official_facts() -> None:
    """Sizes in bytes and md5 sums as several public mirrors list them."""
    assert {archive.name: (archive.size, archive.md5) for archive in COCO2017.values()} == {
        "train2017.zip": (19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
        "val2017.zip": (815585330, "442b8da7639aecaf257c1dceb8ba8c80"),
        "annotations_trainval2017.zip": (252907541, "f4bbac642086de4f52a3fdda2de5fa2c"),
    }
