"""A web server on loopback that behaves as badly as it is told to, and a yt-dlp that never leaves the machine."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; the answers below write to it."""

    protocol_version = "HTTP/1.1"
    server: "Site"

    def do_GET(self) -> None:  # the name that the standard library calls
        site = self.server
        with site.lock:
            site.seen.append((self.path, dict(self.headers)))
            site.times.append(time.monotonic())
            site.active += 1
            site.most_active = max(site.most_active, site.active)
        try:
            site.pages.get(self.path, status(404))(self)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with site.lock:
                site.active -= 1

    def send(self, code: int, body: bytes, **headers: str) -> None:
        """Status, headers and a body; Content-Length is the body's unless given."""
        self.send_response(code)
        headers = {"Content_Length": str(len(body)), "Connection": "close", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Site(ThreadingHTTPServer):
    """Pages by path; everything else is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.pages: dict[str, Answer] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.active = self.most_active = 0

    def url(self, path: str) -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{self.server_port}{path}"

    def asked(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(path for path, _ in self.seen)


@contextmanager
def serving() -> Iterator[Site]:
    """A site that runs while the block does."""
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()


def status(code: int, **headers: str) -> Answer:
    """Only a status."""
    return lambda request: request.send(code, b"", **headers)


def status_and_body(data: bytes, **headers: str) -> Answer:
    """A file with headers of the test's own, however wrong."""
    return lambda request: request.send(200, data, **headers)


def page(text: str = "<!doctype html><title>Gone</title>" + "sorry " * 200) -> Answer:
    """A page, called a video as some hosts do."""
    return lambda request: request.send(200, text.encode(), Content_Type="video/mp4")


def plain(data: bytes) -> Answer:
    """A file from a host that knows no ranges."""
    return lambda request: request.send(200, data, Content_Type="video/mp4")


def ranged(data: bytes, tag: str = '"one"') -> Answer:
    """A file from a host that honours Range and If-Range."""

    def answer(request: Request) -> None:
        wanted = request.headers.get("Range")
        if wanted is None or request.headers.get("If-Range", tag) != tag:
            request.send(200, data, ETag=tag)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-"))
        if first >= len(data):
            request.send(416, b"")
            return
        place = f"bytes {first}-{len(data) - 1}/{len(data)}"
        request.send(206, data[first:], ETag=tag, Content_Range=place)

    return answer


def cut_short(data: bytes, keep: int, tag: str | None = '"one"') -> Answer:
    """Promises a whole file and sends the first `keep` bytes."""

    def answer(request: Request) -> None:
        headers = {"ETag": tag} if tag else {}
        request.send(200, data[:keep], Content_Length=str(len(data)), **headers)

    return answer


def silent(data: bytes, keep: int, seconds: float) -> Answer:
    """Sends the first `keep` bytes and then nothing for a while."""

    def answer(request: Request) -> None:
        request.send(200, data[:keep], Content_Length=str(len(data)), ETag='"one"')
        request.wfile.flush()
        time.sleep(seconds)

    return answer


def dripping(data: bytes, keep: int, ended: threading.Event) -> Answer:
    """Sends the first `keep` bytes at once and then a byte at a time until the listener goes away."""

    def answer(request: Request) -> None:
        request.send(200, data[:keep], Content_Length=str(len(data)), ETag='"one"')
        for byte in data[keep:]:
            if ended.wait(0.02):
                return
            request.wfile.write(bytes([byte]))

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last one to all that follow."""
    left = list(answers)
    lock = threading.Lock()

    def answer(request: Request) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(request)

    return answer


_YT_DLP = '''\
"""Stands in for yt-dlp: copies videos/<id> to the asked name, or says what says/<id> holds and fails."""
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
given = sys.argv[1:]
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(given) + "\\n")
video = given[-1].rpartition("v=")[2]
target = pathlib.Path(given[given.index("--output") + 1])
says = here / "says" / video
if (here / "hang").exists():
    target.with_name(target.name + ".part").write_bytes(b"begun")
    time.sleep(30)
if says.exists():
    sys.exit(says.read_text())
source = here / "videos" / video
if source.stat().st_size > int(given[given.index("--max-filesize") + 1]):
    print("File is larger than max-filesize")
    sys.exit(0)
target.write_bytes(source.read_bytes())
'''


def fake_yt_dlp(folder: Path) -> Path:
    """Write the stand-in; returns its script. Videos go to `videos/`, error messages to `says/`."""
    for name in ("videos", "says"):
        (folder / name).mkdir(parents=True)
    script = folder / "yt-dlp.py"
    script.write_text(_YT_DLP)
    return script
