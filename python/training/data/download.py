"""Downloads COCO 2017: resumed after interruptions, checked against the official checksums, unpacked safely."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import io
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgedet import Error, InvalidInputError
from edgedet.files import beside

#: Where the official archives are. Plain http, because the host has no certificate of that name; md5 sums guard them.
BASE_URL: Final = "http://images.cocodataset.org"

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 6  # in a row that bring nothing
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MOST_UNPACKED = 8  # times the size of an archive; the annotations, which compress best, take about 3.3

#: Told what is going on: the step, bytes done, bytes of all.
OnBytes = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Archive:
    """A zip file. path: under the base URL. size: bytes. folder: all it holds is in it. files: how many these are."""

    path: str
    size: int
    md5: str
    folder: str
    files: int

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.path).name


#: The official archives of COCO 2017.
COCO2017: Final[Mapping[str, Archive]] = {
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c", "annotations", 6
    ),
    "val": Archive("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80", "val2017", 5000),
    "train": Archive("zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2", "train2017", 118_287),
}


def download_coco2017(
    root: Path,
    *,
    splits: Iterable[str] = ("train", "val"),
    base_url: str = BASE_URL,
    archives: Mapping[str, Archive] = COCO2017,
    on_bytes: OnBytes | None = None,
    pause: float = 1.0,
) -> None:
    """Brings ROOT/annotations and ROOT/SPLIT2017 about; what is there is not fetched again.

    An interrupted download leaves a .part file, which the next call goes on with. A folder appears whole or not at all.
    A zip file that lies in ROOT is checked and used. Archives are removed once unpacked.

    pause: seconds before the first retry after a failure, doubled for each further one.
    Raises InvalidInputError for a wrong URL, split or folder, Error for a full disk, a server that stays away, and
    archives that are not the expected ones.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InvalidInputError(f"base URL: expected http://… or https://…, got {base_url!r}")
    wanted = ["annotations", *splits]
    if unknown := sorted(set(wanted) - set(archives)):
        raise InvalidInputError(f"splits: expected some of train and val, got {', '.join(unknown)}")
    root.mkdir(parents=True, exist_ok=True)
    todo = [archive for key, archive in archives.items() if key in wanted and not _is_there(root, archive)]
    _check_disk(root, todo)
    tell: OnBytes = on_bytes or (lambda step, done, total: None)
    for archive in todo:
        file = root / archive.name
        if not file.is_file():
            part = root / f"{archive.name}.part"
            with _exclusive(part) as stream:
                _fetch(f"{base_url.rstrip('/')}/{archive.path}", stream, archive, tell, pause=pause)
                _check_sum(part, archive, tell)
                part.replace(file)
        else:
            _check_sum(file, archive, tell)
        _unpack(file, root, archive, tell)
        file.unlink()


def _is_there(root: Path, archive: Archive) -> bool:
    folder = root / archive.folder
    if not folder.exists():
        return False
    files = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    if files < archive.files:
        raise InvalidInputError(
            f"{folder}: expected the {archive.files} files of {archive.name}, got {files}; move the folder away"
        )
    return True


def _check_disk(root: Path, archives: Iterable[Archive]) -> None:
    """The largest archive and all that is unpacked must fit. Unpacked sizes are not known yet; see `_unpack`."""
    missing, unpacked = 0, 0
    for archive in archives:
        parts = (root / archive.name, root / f"{archive.name}.part")
        present = max((part.stat().st_size for part in parts if part.is_file()), default=0)
        missing = max(missing, archive.size - present)
        unpacked += archive.size
    _require_space(root, missing + unpacked)


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise Error(
            f"{root}: expected {needed / 1e9:.1f} GB of free disk, got {free / 1e9:.1f} GB; "
            f"make room, choose another --root, or fetch fewer --splits"
        )


@contextmanager
def _exclusive(part: Path) -> Iterator[io.FileIO]:
    """The .part file, opened to be read and written, which no other download may have open."""
    with part.open("a+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Error(f"{part}: another download writes it; wait for that one or end it") from None
        yield stream


def _fetch(url: str, stream: io.FileIO, archive: Archive, tell: OnBytes, *, pause: float) -> None:
    """Appends what is missing, in as many connections as it takes."""
    failures = 0
    while (have := stream.seek(0, os.SEEK_END)) != archive.size:
        if have > archive.size:
            stream.truncate(0)
            continue
        try:
            _fetch_once(url, stream, have, archive, tell)
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED:
                raise Error(
                    f"{url}: expected the archive, got {error.code} {error.reason}; check --base-url"
                ) from error
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        got = stream.seek(0, os.SEEK_END)
        failures = 0 if got > have else failures + 1
        if failures == _TRIES:
            raise Error(
                f"{url}: expected {archive.size} bytes, got {got} and then nothing in {_TRIES} tries ({problem}); "
                f"run the command again later, it goes on from there"
            )
        if got < archive.size:
            time.sleep(min(pause * 2**failures, 60 * pause))


def _fetch_once(url: str, stream: io.FileIO, have: int, archive: Archive, tell: OnBytes) -> None:
    """One request for the rest from byte `have` on. Servers that know no ranges send all, which replaces the file."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if response.status == 206:
            begin, total = _content_range(response.headers.get("Content-Range", ""))
            have = have if begin == have else -1
        else:
            have, total = 0, int(response.headers.get("Content-Length") or archive.size)
        if total != archive.size or have < 0:
            raise Error(
                f"{url}: expected the archive of {archive.size} bytes, got {total} bytes, or another part than was "
                f"asked for; check --base-url"
            )
        stream.truncate(have)
        while have < archive.size and (chunk := response.read(min(_CHUNK, archive.size - have))):
            _write(stream, chunk)
            have += len(chunk)
            tell(f"downloading {archive.name}", have, archive.size)


def _content_range(text: str) -> tuple[int, int]:
    """First byte and total size of `bytes 5-9/10`; -1 for what is not stated."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    begin = span.partition("-")[0]
    if unit != "bytes" or not begin.isdigit() or not total.isdigit():
        return -1, -1
    return int(begin), int(total)


def _write(stream: io.FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[stream.write(left) :]
    except OSError as error:
        raise Error(
            f"{stream.name}: cannot be written ({error.strerror}); make room and run the command again"
        ) from error


def _check_sum(file: Path, archive: Archive, tell: OnBytes) -> None:
    """Removes a file of another content, so that the next call starts anew."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            tell(f"checking {archive.name}", stream.tell(), archive.size)
    if digest.hexdigest() != archive.md5:
        size = file.stat().st_size
        file.unlink()
        raise Error(
            f"{file}: expected {archive.size} bytes with md5 {archive.md5}, got {size} bytes with "
            f"{digest.hexdigest()}; the file was removed, run the command again, or check --base-url"
        )


def _unpack(file: Path, root: Path, archive: Archive, tell: OnBytes) -> None:
    staging = beside(root / archive.folder)
    try:
        with zipfile.ZipFile(file) as content:
            members = _members(content, file, archive)
            total = sum(member.file_size for member in members)
            _require_space(root, total)
            staging.mkdir()
            done = 0
            for member in members:
                target = staging / PurePosixPath(member.filename).name
                with content.open(member) as source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream, _CHUNK)
                done += member.file_size
                tell(f"unpacking {archive.name}", done, total)
        os.sync()  # once for all files, before the name that says they are whole
        staging.rename(root / archive.folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise Error(f"{file}: expected a zip archive, got a broken one ({error}); remove it and start anew") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _members(content: zipfile.ZipFile, file: Path, archive: Archive) -> list[zipfile.ZipInfo]:
    """The files of an archive, all of them directly in its one folder."""
    members = [member for member in content.infolist() if not member.is_dir()]
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        parts = member.filename.split("/")
        if (
            len(parts) != 2
            or parts[0] != archive.folder
            or parts[1] in ("", ".", "..")
            or "\\" in parts[1]
            or (kind not in (0, stat.S_IFREG))
        ):
            raise Error(f"{file}: expected plain files in {archive.folder}/, got {member.filename!r}; check --base-url")
    total = sum(member.file_size for member in members)
    names = {member.filename for member in members}
    if len(names) != archive.files or len(names) != len(members) or total > _MOST_UNPACKED * archive.size:
        raise Error(
            f"{file}: expected {archive.files} files of at most {_MOST_UNPACKED * archive.size} bytes, "
            f"got {len(members)} of {total} bytes; check --base-url"
        )
    return members
