"""One file over HTTP, continued where an earlier attempt broke off.

Only http and https are spoken, also after a redirect. `islr.data.fetch.connection` keeps connections to public
addresses and within their time; this module turns every answer, however malformed, into a file or a `FetchFailure`.
"""

import contextlib
import email.utils
import http.client
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from urllib3 import exceptions

import islr
from islr.data.fetch import table
from islr.data.fetch.connection import ExchangeClock, request
from islr.data.fetch.failure import FetchFailure, Stopped, TransferLimits
from islr.data.video.guard import HEAD_BYTES, container_suffix
from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import read_json

USER_AGENT = f"islr-bench/{islr.__version__} (fetches the videos of a sign language data set; slow on purpose)"

_REDIRECTS = 8
_CHUNK = 1 << 16
_TOO_MANY_REQUESTS = 429
_RETRY = frozenset((408, 425, 500, 502, 503, 504))
_DEAD = frozenset((400, 404, 406, 410))
_NUMBER = r"[0-9]{1,15}"  # ASCII digits, as many as a file's bytes can have
_RANGE = re.compile(rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER})")
_LONGEST_WAIT_S = 1e9  # a Retry-After beyond it means the same
# Quoted already, or with a meaning of their own in an address.
_SAFE = "/:?#[]@!$&'()*+,;=%~"


def host_of(url: str) -> str:
    """Return the host of an http(s) address.

    Raises:
        FetchFailure: It is no such address, or carries a password.
    """
    if any(ord(character) < 32 for character in url):
        raise FetchFailure(table.BAD_LINK, "a control character in the address")
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise FetchFailure(table.BAD_LINK, str(error)) from None
    if parts.scheme not in ("http", "https"):
        raise FetchFailure(table.BAD_LINK, f"neither http nor https: {url or 'no address'}")
    if not host or "@" in parts.netloc:
        raise FetchFailure(table.BAD_LINK, "no host in the address, or a password")
    return host


def download(url: str, target: Path, limits: TransferLimits, stop: threading.Event) -> None:
    """Make one attempt at downloading a file.

    The body is collected in `<target>.partial`, which the next attempt continues if the host can (RFC 9110, section
    13.1.5: only with a validator that shows that the file is still the same).

    Raises:
        FetchFailure: It did not come, or its first bytes are not those of a video.
        Stopped: `stop` was set.
        OSError: The disk refuses.
    """
    partial, about = target.with_name(target.name + ".partial"), target.with_name(target.name + ".json")
    try:
        _attempt(url, partial, about, limits, stop)
    except FetchFailure as failure:
        if failure.outcome in table.FINAL:
            partial.unlink(missing_ok=True)
            about.unlink(missing_ok=True)
        raise
    os.replace(partial, target)
    about.unlink(missing_ok=True)


def _attempt(url: str, partial: Path, about: Path, limits: TransferLimits, stop: threading.Event) -> None:
    """Complete `partial`, whose address and validator are kept in `about`."""
    have, validator = _resumable(partial, about, url)
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
    clock = ExchangeClock(limits)
    with contextlib.closing(_open(url, headers, limits, clock)) as answer:
        total = _number(answer.headers.get("Content-Length"))
        if answer.status == http.client.PARTIAL_CONTENT:
            match = _RANGE.match(answer.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != have:
                partial.unlink(missing_ok=True)
                raise FetchFailure(table.SERVER_ERROR, "an answer that does not continue the file", retry=True)
            total = int(match[2])
        else:
            have = 0
        if total is not None and total > limits.max_bytes:
            raise FetchFailure(table.TOO_LARGE, f"{total} bytes")
        write_atomic(about, json.dumps({"url": url, "validator": _validator(answer.headers)}))
        with partial.open("ab" if have else "wb") as file:
            _receive(answer, file, have, total, limits, stop)
            file.flush()
            os.fsync(file.fileno())
    if not _is_video(partial):
        kind = answer.headers.get("Content-Type", "no type")
        raise FetchFailure(table.WRONG_TYPE, f"no video by its first bytes; the host says {kind}")


def _receive(
    answer: Any, file: BinaryIO, have: int, total: int | None, limits: TransferLimits, stop: threading.Event
) -> None:
    """Write the body of an answer to a file that has `have` bytes, until `total`."""
    come, head = 0, bytearray()
    for chunk in _chunks(answer):
        file.write(chunk)
        file.flush()  # received bytes survive a kill
        come += len(chunk)
        if not have and len(head) < HEAD_BYTES:
            head += chunk
            # A web page in place of a video need not be read to its end.
            if len(head) >= HEAD_BYTES and container_suffix(bytes(head)) is None:
                return
        if stop.is_set():
            raise Stopped
        if have + come > limits.max_bytes:
            raise FetchFailure(table.TOO_LARGE, f"more than {limits.max_bytes} bytes")
    if total is not None and have + come < total:
        raise FetchFailure(table.TRUNCATED, f"{have + come} of {total} bytes", retry=True)


def _chunks(answer: Any) -> Iterator[bytes]:
    """Yield pieces of a body as they come; only network errors become failures here, those of the disk do not."""
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except exceptions.ReadTimeoutError:
            raise FetchFailure(table.TIMEOUT, "the host fell silent, or sends too slowly", retry=True) from None
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise FetchFailure(table.TRUNCATED, f"the connection broke ({error!r})", retry=True) from None
        if not chunk:
            return
        yield chunk


def _open(url: str, headers: dict[str, str], limits: TransferLimits, clock: ExchangeClock) -> Any:
    """Return an answer with status 200 or 206, after redirects."""
    for _ in range(_REDIRECTS):
        url = url.strip()
        host_of(url)
        clean = urllib.parse.quote(url, safe=_SAFE)
        sent = {"User-Agent": USER_AGENT, "Accept": "video/*, */*;q=0.5", "Accept-Encoding": "identity", **headers}
        try:
            answer = request(clean, sent, limits, clock)
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _no_connection(error) from None
        if answer.status in (http.client.OK, http.client.PARTIAL_CONTENT):
            clock.begin_body()
            return answer
        answer.close()
        where = answer.headers.get("Location")
        if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            headers = {}  # the file of the partial download is longer than the one that the host has now
        elif 300 <= answer.status < 400 and where:
            url = _redirected(clean, where)
        else:
            raise _refused(answer.status, answer.headers)
    raise FetchFailure(table.BLOCKED, f"more than {_REDIRECTS} redirects")


def _redirected(url: str, where: str) -> str:
    try:
        return urllib.parse.urljoin(url, where.strip())
    except ValueError as error:
        raise FetchFailure(table.BAD_LINK, f"redirects to no address ({error})") from None


def _refused(code: int, headers: Any) -> FetchFailure:
    detail = f"HTTP {code}"
    if code in _DEAD or code < 300:
        return FetchFailure(table.DEAD, detail)
    many = code == _TOO_MANY_REQUESTS
    if many or code in _RETRY or code >= 500:
        outcome = table.BLOCKED if many else table.SERVER_ERROR
        wait = _retry_after(headers.get("Retry-After"))
        return FetchFailure(outcome, detail, retry=many or code in _RETRY, wait=wait, of_host=many)
    return FetchFailure(table.BLOCKED, detail)


def _no_connection(error: Exception) -> FetchFailure:
    """Say why no answer came."""
    if isinstance(error, exceptions.ProtocolError) and len(error.args) > 1:
        error = error.args[1]  # the socket's own error
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return FetchFailure(table.TIMEOUT, "no answer in time", retry=True, of_host=True)
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FetchFailure(table.UNREACHABLE, f"no safe connection ({error})", of_host=True)
    if isinstance(error, exceptions.LocationValueError | UnicodeError):
        return FetchFailure(table.BAD_LINK, str(error))
    return FetchFailure(table.UNREACHABLE, str(error), retry=True, of_host=True)


def _resumable(partial: Path, about: Path, url: str) -> tuple[int, str]:
    """Return the bytes that may be continued and the validator they came with; 0 if none may."""
    try:
        stored: dict[str, str] = read_json(dict[str, str], about)
        have = partial.stat().st_size
    except (OSError, UserError):
        return 0, ""
    if stored.get("url") != url or not stored.get("validator"):
        return 0, ""
    return have, stored["validator"]


def _validator(headers: Any) -> str:
    """Return what If-Range may carry: a strong ETag, else the date of change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _is_video(path: Path) -> bool:
    with path.open("rb") as file:
        return container_suffix(file.read(HEAD_BYTES)) is not None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(_NUMBER, text.strip()) else None


def _retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    text = (text or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), _LONGEST_WAIT_S)
    try:
        wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, wait), _LONGEST_WAIT_S)
