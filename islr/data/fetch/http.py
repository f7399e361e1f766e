"""One file over HTTP, continued where an earlier attempt broke off.

Only http and https are spoken, also after a redirect, and by default only to addresses of the public internet:
a list of links, or a host that redirects, could otherwise make this machine ask its own network. The check is made
on the address actually connected to; behind a proxy it is the proxy that decides.
"""

import email.utils
import functools
import http.client
import ipaddress
import json
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import islr
from islr.data.fetch import table
from islr.data.video.guard import HEAD_BYTES, container_suffix
from islr.files import write_atomic

USER_AGENT = f"islr-bench/{islr.__version__} (fetches the videos of a sign language data set; slow on purpose)"

_REDIRECTS = 8
_CHUNK = 1 << 16
_SLOWEST_BYTES_PER_S = 1000  # a clip of a megabyte would take longer than anybody waits
_MANY = 429
_RETRY = frozenset((408, 425, 500, 502, 503, 504))
_DEAD = frozenset((400, 404, 406, 410))
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
# Quoted already, or with a meaning of their own in an address.
_SAFE = "/:?#[]@!$&'()*+,;=%~"


@dataclass(frozen=True)
class TransferLimits:
    """What a transfer may cost: seconds without an answer or data, bytes, and whether private hosts are allowed."""

    timeout: float = 30.0
    max_bytes: int = 2 << 30
    allow_private: bool = False


class FetchFailure(Exception):
    """An attempt failed.

    Attributes:
        outcome: One of `fetch_table.OUTCOMES`.
        detail: The particulars.
        retry: Whether another attempt in this run may do better.
        wait: Seconds the host asked us to wait, if it did.
        of_host: Whether it is about the host and not about this file.
    """

    def __init__(
        self, outcome: str, detail: str, *, retry: bool = False, wait: float | None = None, of_host: bool = False
    ) -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, " ".join(detail.split())[:200]
        self.retry, self.wait, self.of_host = retry, wait, of_host


class Stopped(Exception):
    """The run was told to stop; what has come so far stays for the next one."""


def host_of(url: str) -> str:
    """The host of an http(s) address.

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
    """Make one attempt at getting a file.

    What comes is collected in `<target>.partial`, which the next attempt continues if the host can (RFC 9110,
    section 13.1.5: only with a validator that shows that the file is still the same).

    Raises:
        FetchFailure: It did not come, or what came is not a video by its first bytes.
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
    have, validator = _progress(partial, about, url)
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
    with _open(url, headers, limits) as answer:
        total = _number(answer.headers.get("Content-Length"))
        if answer.status == http.client.PARTIAL_CONTENT:
            found = _RANGE.match(answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                partial.unlink(missing_ok=True)
                raise FetchFailure(table.SERVER_ERROR, "an answer that does not continue the file", retry=True)
            total = int(found[2])
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
        kind = answer.headers.get_content_type()
        raise FetchFailure(table.WRONG_TYPE, f"no video by its first bytes; the host says {kind}")


def _receive(
    answer: Any, file: BinaryIO, have: int, total: int | None, limits: TransferLimits, stop: threading.Event
) -> None:
    """Write the body of an answer to a file that has `have` bytes, until `total`."""
    began, come, head = time.monotonic(), 0, bytearray()
    for chunk in _chunks(answer):
        file.write(chunk)
        file.flush()  # what has come outlives a kill
        come += len(chunk)
        if not have and len(head) < HEAD_BYTES:
            head += chunk
            # A page that stands in for a video need not be read to its end.
            if len(head) >= HEAD_BYTES and container_suffix(bytes(head)) is None:
                return
        if stop.is_set():
            raise Stopped
        if have + come > limits.max_bytes:
            raise FetchFailure(table.TOO_LARGE, f"more than {limits.max_bytes} bytes")
        seconds = time.monotonic() - began
        if seconds > limits.timeout and come < _SLOWEST_BYTES_PER_S * seconds:
            raise FetchFailure(table.TIMEOUT, f"{come} bytes in {seconds:.0f} s", retry=True)
    if total is not None and have + come < total:
        raise FetchFailure(table.TRUNCATED, f"{have + come} of {total} bytes", retry=True)


def _chunks(answer: Any) -> Iterator[bytes]:
    """Pieces of a body as they come; only network errors become failures here, those of the disk do not."""
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except TimeoutError:
            raise FetchFailure(table.TIMEOUT, "the host fell silent", retry=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise FetchFailure(table.TRUNCATED, f"the connection broke ({error!r})", retry=True) from None
        if not chunk:
            return
        yield chunk


def _open(url: str, headers: dict[str, str], limits: TransferLimits) -> Any:
    """An answer with status 200 or 206, after redirects."""
    for _ in range(_REDIRECTS):
        host_of(url)
        clean = urllib.parse.quote(url, safe=_SAFE)
        sent = {"User-Agent": USER_AGENT, "Accept": "video/*, */*;q=0.5", "Accept-Encoding": "identity", **headers}
        request = urllib.request.Request(clean, headers=sent)
        try:
            answer = _opener(url, limits).open(request, timeout=limits.timeout)
        except urllib.error.HTTPError as error:
            with error:
                where = error.headers.get("Location")
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                    headers = {}  # what we have is no beginning of what is there now
                    continue
                if 300 <= error.code < 400 and where:
                    url = urllib.parse.urljoin(clean, where)
                    continue
                raise _refused(error.code, error.headers) from None
        except TimeoutError:
            raise FetchFailure(table.TIMEOUT, "no answer", retry=True, of_host=True) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _no_connection(getattr(error, "reason", error)) from None
        if answer.status in (http.client.OK, http.client.PARTIAL_CONTENT):
            return answer
        answer.close()
        raise FetchFailure(table.DEAD, f"HTTP {answer.status}")
    raise FetchFailure(table.BLOCKED, f"more than {_REDIRECTS} redirects")


def _refused(code: int, headers: Any) -> FetchFailure:
    detail = f"HTTP {code}"
    if code in _DEAD:
        return FetchFailure(table.DEAD, detail)
    if code == _MANY or code in _RETRY or code >= 500:
        outcome = table.BLOCKED if code == _MANY else table.SERVER_ERROR
        wait = _retry_after(headers.get("Retry-After"))
        return FetchFailure(outcome, detail, retry=code == _MANY or code in _RETRY, wait=wait, of_host=code == _MANY)
    return FetchFailure(table.BLOCKED, detail)


def _no_connection(reason: Any) -> FetchFailure:
    if isinstance(reason, TimeoutError):
        return FetchFailure(table.TIMEOUT, "no connection in time", retry=True, of_host=True)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FetchFailure(table.UNREACHABLE, f"no safe connection ({reason})", of_host=True)
    return FetchFailure(table.UNREACHABLE, str(reason), retry=True, of_host=True)


def _opener(url: str, limits: TransferLimits) -> urllib.request.OpenerDirector:
    """Speaks http and https, follows nothing, and looks at the address it is connected to."""
    proxies = urllib.request.getproxies()
    parts = urllib.parse.urlsplit(url)
    proxied = parts.scheme in proxies and not urllib.request.proxy_bypass(parts.hostname or "")
    check = not (limits.allow_private or proxied)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _Http(check),
        _Https(check),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _check_public(self)


class _SafeConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _check_public(self)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, check: bool) -> None:
        super().__init__()
        self._kind = _Connection if check else http.client.HTTPConnection

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, check: bool) -> None:
        super().__init__()
        self._kind = _SafeConnection if check else http.client.HTTPSConnection

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req, context=_trusted())


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Certificates of the system, read once."""
    return ssl.create_default_context()


def _check_public(connection: http.client.HTTPConnection) -> None:
    """Close a connection to this machine, the local network, or a cloud's own services."""
    text = connection.sock.getpeername()[0]
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if not address.is_global:
        connection.close()
        raise FetchFailure(table.BAD_LINK, f"leads to the private address {text}")


def _progress(partial: Path, about: Path, url: str) -> tuple[int, str]:
    """Bytes that may be continued, and the validator they came with; 0 if they may not."""
    try:
        stored = json.loads(about.read_text(encoding="utf-8"))
        have = partial.stat().st_size
    except (OSError, ValueError):
        return 0, ""
    if stored.get("url") != url or not stored.get("validator"):
        return 0, ""
    return have, stored["validator"]


def _validator(headers: Any) -> str:
    """A strong ETag or else the date of change: what If-Range may carry."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _is_video(path: Path) -> bool:
    with path.open("rb") as file:
        return container_suffix(file.read(HEAD_BYTES)) is not None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
