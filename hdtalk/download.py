"""Fetches one published file over HTTPS: resumes, verifies, and only then gives the file its name."""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from hdtalk import __version__
from hdtalk.errors import DISK_FULL, ResourceError, WeightsError
from hdtalk.registry import OfficialFile

logger = logging.getLogger(__name__)

DRIVE = "https://drive.usercontent.google.com/download"
CHUNK_BYTES = 1 << 20
LARGEST_BYTES = 2 << 30  # where the registry does not know the size
TIMEOUT_S = 60
DISK_ERRORS = (*DISK_FULL, errno.EFBIG, errno.EIO, errno.EROFS)
Progress = Callable[[str, int, int | None], None]


def download(
    official: OfficialFile,
    folder: Path,
    *,
    sources: tuple[str, ...] | None = None,
    drive: str = DRIVE,
    progress: Progress | None = None,
    attempts: int = 5,
    pause_s: float = 2.0,
) -> Path:
    """Bring `official` into `folder` and return its path.

    `sources` replaces the registry's addresses. A broken connection is taken up where it broke, within this call
    (`attempts` times without a new byte) and by the next one: the bytes wait in NAME.part.
    `progress(name, bytes, total)` is called as they come.
    Raises WeightsError when no source delivers the right file, ResourceError when it does not fit on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / official.name, folder / f"{official.name}.part"
    with _only_one(folder / f".{official.name}.lock", official.name):
        if target.is_file():
            return target
        reasons = []
        for source in sources or official.sources:
            try:
                _complete(_address(source, drive), part, official, progress, attempts, pause_s)
                _verify(part, official)
            except _Failed as failure:
                reasons.append(f"{_shown(source)}: {failure}")
                logger.info("%s from %s: %s", official.name, source, failure)
                continue
            os.replace(part, target)
            return target
    by_hand = f"Fetch {_shown((sources or official.sources)[0])} with a browser, then run `hdtalk weights add FILE`"
    raise WeightsError(f"{official.name}: could not be fetched ({'; '.join(reasons)}). Try again later, or: {by_hand}.")


class _Failed(Exception):
    """This source does not deliver; another may."""


def _complete(url: str, part: Path, official: OfficialFile, progress, attempts: int, pause_s: float) -> None:
    """Append to `part` until it is complete, starting again after each break that brought at least one byte."""
    left = attempts
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, part, official, progress):
                return
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _Failed(f"HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # URLError, SSLError and TimeoutError are OSErrors, too
            if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_ERRORS):
                raise
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        left = attempts if part.exists() and part.stat().st_size > before else left - 1
        if left <= 0:
            raise _Failed(reason)
        time.sleep(pause_s)


def _receive(url: str, part: Path, official: OfficialFile, progress: Progress | None) -> bool:
    """One request, continuing `part`. True when the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    if official.size and have == official.size:
        return True
    try:
        answer = _open(url, have)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond: complete, or not this file at all; the hash will tell
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return True
            part.unlink()
            return False
        raise
    with answer:
        if "text/html" in answer.headers.get("Content-Type", ""):
            form = _confirmation(answer.read(1 << 20), answer.url)
            if form is None:
                raise _Failed("a web page came instead of the file (perhaps a sign-in, or a daily limit)")
            answer = _open(form, have)
            if "text/html" in answer.headers.get("Content-Type", ""):
                raise _Failed("a web page came instead of the file (perhaps a sign-in, or a daily limit)")
        continues = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if continues else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else official.size
        if official.size and total != official.size:
            raise _Failed(f"offers {total} bytes, {official.size} were expected")
        largest = official.size or LARGEST_BYTES
        if (total or 0) > largest:
            raise _Failed(f"offers {total} bytes, more than any file here has")
        _check_space(part.parent, (total or 0) - have, official.name)
        with part.open("ab" if continues else "wb") as file:
            while chunk := answer.read1(CHUNK_BYTES):  # unlike read, keeps what came before a break
                file.write(chunk)
                have += len(chunk)
                if have > largest:
                    raise _Failed("sends more than the file has")
                if progress:
                    progress(official.name, have, total)
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


def _open(url: str, start: int) -> http.client.HTTPResponse:
    if not _is_allowed(url):
        raise _Failed(f"{url[:80]} is not an https address")
    headers = {"User-Agent": f"hdtalk/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


def _is_allowed(url: str) -> bool:
    """https anywhere; plain http only to this machine."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, new_url):
        if not _is_allowed(new_url) or (request.type == "https" and not new_url.startswith("https:")):
            raise _Failed(f"redirects to {new_url[:80]}, which is not an https address")
        return super().redirect_request(request, answer, code, message, headers, new_url)


_OPENER = urllib.request.build_opener(_CarefulRedirects)


def _address(source: str, drive: str) -> str:
    if source.startswith("gdrive:"):
        query = {"id": source.removeprefix("gdrive:"), "export": "download", "confirm": "t"}
        return f"{drive}?{urllib.parse.urlencode(query)}"
    return source


def _shown(source: str) -> str:
    """The address a person opens in a browser."""
    if source.startswith("gdrive:"):
        return f"https://drive.google.com/file/d/{source.removeprefix('gdrive:')}/view"
    return source


def _confirmation(page: bytes, url: str) -> str | None:
    """The address behind Google Drive's "download anyway" form, if the page has one that leads to the same host."""
    form = _DownloadForm()
    form.feed(page.decode("utf-8", "replace"))
    if form.action is None:
        return None
    target = urllib.parse.urljoin(url, form.action)
    if urllib.parse.urlsplit(target).netloc != urllib.parse.urlsplit(url).netloc:
        return None
    return f"{target}?{urllib.parse.urlencode(form.fields)}"


class _DownloadForm(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag, attributes) -> None:
        values = dict(attributes)
        if tag == "form" and values.get("id") == "download-form":
            self.action = values.get("action")
        elif tag == "input" and self.action is not None and values.get("type") == "hidden" and values.get("name"):
            self.fields[values["name"]] = values.get("value") or ""


def _verify(part: Path, official: OfficialFile) -> None:
    """Size and hash; a wrong file is removed, so that the next source starts afresh."""
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(official.sha256):
        part.unlink()
        raise _Failed(f"sha256 is {actual[:12]}..., {official.sha256[:12]}... was expected; the file was removed")


def _check_space(folder: Path, num_bytes: int, name: str) -> None:
    if (free := shutil.disk_usage(folder).free) < num_bytes + (64 << 20):
        need = f"{name} needs {num_bytes >> 20} MB more in {folder}, {free >> 20} MB are free"
        raise ResourceError(f"{need}. Free some space, or set HDTALK_HOME to another disk.")


@contextlib.contextmanager
def _only_one(path: Path, name: str) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"{name}: another hdtalk is fetching it. Wait for that one, then try again.") from None
        yield
