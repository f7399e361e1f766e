"""Fetching: every way in which a host can disappoint, on a server of our own; nothing leaves the machine."""

import csv
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.video_files import make_cut_between_frames, make_flipped, make_rotated, make_video, numbers_of
from support.web_files import (
    Site,
    cut_short,
    dripping,
    fake_yt_dlp,
    in_turn,
    page,
    plain,
    ranged,
    serving,
    silent,
    status,
    status_and_body,
)
from support.wlasl_files import instance, write_json

from islr.cli import run
from islr.data.corpora.wlasl import from_wlasl
from islr.data.corpora.youtube import youtube_id
from islr.data.fetch.connection import ExchangeClock, _trusted, is_public
from islr.data.fetch.cut import cut
from islr.data.fetch.failure import FetchFailure, Stopped, TransferLimits
from islr.data.fetch.http import _retry_after, download, host_of
from islr.data.fetch.run import FetchOptions, fetch
from islr.data.fetch.schedule import Schedule
from islr.data.fetch.table import COLUMNS, FINAL, OUTCOMES, FetchedClip, summarise, trimmed_ids
from islr.data.fetch.youtube import _failure
from islr.data.video.decode import decode, probe_video
from islr.data.video.guard import DecodeError, container_suffix
from islr.errors import UserError

QUICK = FetchOptions(
    rate=1000.0,
    retries=2,
    backoff_s=0.01,
    workers=1,
    limits=TransferLimits(timeout=1.0, allow_private=True),
    yt_dlp=(),
)

QUICK_ONCE = dataclasses.replace(QUICK, retries=0)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("clip") / "a.mp4", 40, front_index=True).read_bytes()


class Fetched:
    """A json of one gloss whose clips are given by their addresses, and the folder that they go to."""

    def __init__(self, folder: Path) -> None:
        self.json, self.out = folder / "w.json", folder / "out"

    def __call__(self, *urls: str | dict[str, Any], options: FetchOptions = QUICK) -> list[FetchedClip]:
        changes = [{"url": url} if isinstance(url, str) else url for url in urls]
        clips = [instance(f"{number:05d}", "train", **change) for number, change in enumerate(changes)]
        write_json(self.json, {"book": clips})
        return fetch(self.json, self.out, options)

    def outcomes(self, *urls: str | dict[str, Any], options: FetchOptions = QUICK) -> list[str]:
        return [row.outcome for row in self(*urls, options=options)]

    def table(self) -> list[dict[str, str]]:
        with (self.out / "fetch.csv").open() as file:
            return list(csv.DictReader(file))

    def videos(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir() if path.suffix not in ("", ".csv"))


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path)


def test_a_good_file_and_what_is_recorded_of_it(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/a b.mp4"] = plain(clip)
    site.pages["/a%20b.mp4"] = plain(clip)
    (row,) = fetched(site.url("/a b.mp4"))
    assert (row.outcome, row.file, row.trimmed, row.frames, row.fps) == ("ok", "00000.mp4", "no", 40, 25.0)
    assert (row.width, row.height, row.bytes, row.attempts) == (96, 64, len(clip), 1)
    assert row.sha256 == hashlib.sha256(clip).hexdigest()
    assert (fetched.out / row.file).read_bytes() == clip
    (cells,) = fetched.table()
    assert tuple(cells) == COLUMNS
    assert (cells["video_id"], cells["outcome"], cells["sha256"]) == ("00000", "ok", row.sha256)
    agent = site.seen[0][1]["User-Agent"]
    assert agent.startswith("islr-bench/")


def test_one_outcome_per_way_to_fail(site: Site, fetched: Fetched, clip: bytes, tmp_path: Path) -> None:
    make_flipped(tmp_path / "flipped.mp4")
    make_cut_between_frames(tmp_path / "between.mp4")
    make_video(tmp_path / "blink.mp4", 5)
    site.pages |= {
        "/gone": status(410),
        "/forbidden": status(403),
        "/sorry": page(),
        "/short": plain((tmp_path / "blink.mp4").read_bytes()),
        "/flipped": plain((tmp_path / "flipped.mp4").read_bytes()),
        "/between": plain((tmp_path / "between.mp4").read_bytes()),
        "/broken": cut_short(clip, 2000),
        "/slow": silent(clip, 100, 1.5),
        "/failing": status(503),
        "/file": status(302, Location="file:///etc/passwd"),
        "/circle": status(302, Location="/circle"),
        "/moved": status(301, Location="/good"),
        "/good": ranged(clip),
        "/nothing": plain(b""),
        "/later": plain(clip),
    }
    later = {"url": site.url("/later"), "frame_start": 30, "frame_end": 90}
    urls = [site.url("/absent"), *(site.url(path) for path in site.pages if path != "/later")]
    others = ("ftp://host/a.mp4", "", "http://127.0.0.1:9/a.mp4", "https://youtu.be/abcdefghijk")
    quick = dataclasses.replace(QUICK, retries=1, limits=TransferLimits(timeout=0.5, allow_private=True))
    rows = fetched(*urls, later, *others, options=quick)
    found = {row.url.rpartition("/")[2] or "empty": row.outcome for row in rows[:-4]}
    assert found == {
        "absent": "dead",
        "gone": "dead",
        "forbidden": "blocked",
        "sorry": "wrong type",
        "short": "too short",
        "flipped": "damaged",
        "between": "truncated",
        "broken": "truncated",
        "slow": "timeout",
        "failing": "server error",
        "file": "bad link",
        "circle": "blocked",
        "moved": "ok",
        "good": "ok",
        "nothing": "wrong type",
        "later": "too short",
    }
    assert [row.outcome for row in rows[-4:]] == ["bad link", "bad link", "unreachable", "needs yt-dlp"]
    assert {row.outcome for row in rows} == set(OUTCOMES) - {"too large"}
    assert fetched.videos() == sorted(row.file for row in rows if row.outcome == "ok")
    assert site.asked()["/failing"] == 2
    assert site.asked()["/absent"] == site.asked()["/forbidden"] == 1

    asked = site.asked()
    again = fetched(*urls, later, *others, options=quick)
    assert [row.outcome for row in again] == [row.outcome for row in rows]
    new = {path.removeprefix("/") for path in site.asked() - asked}
    assert new == {"forbidden", "between", "broken", "slow", "failing", "circle"}
    fetched(*urls, options=dataclasses.replace(quick, retry_dead=True))
    assert {"/absent", "/gone", "/sorry", "/short", "/flipped"} <= set(site.asked() - asked)


def test_every_outcome_is_explained() -> None:
    rows = [FetchedClip(str(number), outcome, source="site") for number, outcome in enumerate(OUTCOMES)]
    text = summarise([*rows, FetchedClip("x", "ok", source="other")])
    lines = [line.split() for line in text.splitlines()]
    assert ["other", "1", "1", *["-"] * 12] in lines
    assert ["all", str(len(OUTCOMES) + 1), "2", *["1"] * 12] in lines
    for outcome, meaning in OUTCOMES.items():
        again = "" if outcome == "ok" else f"; {'only --retry-dead' if outcome in FINAL else 'next run'} tries again"
        assert f"{outcome}: {meaning}{again}" in text


def test_a_broken_transfer_goes_on_where_it_stopped(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/a.mp4"] = in_turn(cut_short(clip, 3000), ranged(clip))
    (row,) = fetched(site.url("/a.mp4"))
    assert (row.outcome, row.attempts, row.bytes) == ("ok", 2, len(clip))
    first, second = (headers for _, headers in site.seen)
    assert "Range" not in first
    assert (second["Range"], second["If-Range"]) == ("bytes=3000-", '"one"')
    assert (fetched.out / "00000.mp4").read_bytes() == clip


def test_what_may_not_be_continued_starts_again(site: Site, fetched: Fetched, clip: bytes, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 50, front_index=True).read_bytes()
    cases = {
        "/no_ranges": (cut_short(clip, 3000), plain(clip), clip, True),
        "/changed": (cut_short(other, 3000), ranged(clip, '"two"'), clip, True),
        "/no_validator": (cut_short(clip, 3000, tag=None), plain(clip), clip, False),
        "/weak": (cut_short(clip, 3000, tag='W/"one"'), plain(clip), clip, False),
    }
    for path, (first, second, _, _) in cases.items():
        site.pages[path] = in_turn(first, second)
    rows = fetched(*(site.url(path) for path in cases))
    for row, (path, (_, _, data, continued)) in zip(rows, cases.items(), strict=True):
        assert row.outcome == "ok", path
        assert (fetched.out / row.file).read_bytes() == data
        second_headers = [headers for asked, headers in site.seen if asked == path][1]
        assert ("Range" in second_headers) == continued


def test_a_file_that_became_shorter_is_not_continued(site: Site, tmp_path: Path, clip: bytes) -> None:
    longer = clip + bytes(5000)
    site.pages["/a"] = in_turn(cut_short(longer, len(clip) + 100), ranged(clip))
    target, limits = tmp_path / "t", TransferLimits(allow_private=True)
    with pytest.raises(FetchFailure, match="truncated"):
        download(site.url("/a"), target, limits, threading.Event())
    download(site.url("/a"), target, limits, threading.Event())  # 416, then from the beginning
    assert target.read_bytes() == clip
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_host_that_asks_to_wait_is_left_alone(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages |= {"/busy": in_turn(status(429, Retry_After="1"), plain(clip)), "/other": plain(clip)}
    options = dataclasses.replace(QUICK, per_host=1)
    rows = fetched(site.url("/busy"), site.url("/other"), options=options)
    assert [(row.outcome, row.attempts) for row in rows] == [("ok", 2), ("ok", 1)]
    assert site.times[1] - site.times[0] >= 0.95


def test_a_host_that_asks_to_wait_long_is_left_to_the_next_run(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages |= {"/1": status(429, Retry_After="3600"), "/2": plain(clip), "/3": plain(clip)}
    options = dataclasses.replace(QUICK, per_host=1)
    rows = fetched(*(site.url(f"/{number}") for number in (1, 2, 3)), options=options)
    assert [row.outcome for row in rows] == ["blocked"] * 3
    assert "asks to wait 3600 s" in rows[2].detail
    assert len(site.seen) == 1
    site.pages["/1"] = plain(clip)
    assert [row.outcome for row in fetched(*(row.url for row in rows))] == ["ok"] * 3


def test_a_host_that_is_down_is_given_up(fetched: Fetched) -> None:
    options = dataclasses.replace(QUICK, per_host=1, retries=0)
    rows = fetched(*(f"http://127.0.0.1:9/{number}" for number in range(12)), options=options)
    assert [row.outcome for row in rows] == ["unreachable"] * 12
    assert [row.attempts for row in rows] == [1] * 5 + [0] * 7
    assert "failed 5 times in a row" in rows[-1].detail


def test_retry_after_may_be_a_date() -> None:
    assert _retry_after("120") == 120
    assert _retry_after(None) is _retry_after("soon") is None
    ahead = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 98 <= (_retry_after(ahead) or 0) <= 100
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_hostile_numbers_are_no_numbers() -> None:
    for text in ("\xb2", "-5", "1e9", "Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 40 Oct 2015 07:28:00 GMT", " "):
        assert _retry_after(text) is None, text
    assert _retry_after("9" * 5000) == 1e9


def test_hostile_headers_are_outcomes(site: Site, fetched: Fetched, clip: bytes, tmp_path: Path) -> None:
    lengths = {f"/length{number}": text for number, text in enumerate(("\xb2", "9" * 5000, "12x", "-1", "1, 2"))}
    site.pages |= {path: status_and_body(clip, Content_Length=text) for path, text in lengths.items()}
    addresses = ("http://[::1/x", "http://h:99999/", "ftp://h/a")
    targets = {f"/to{number}": text for number, text in enumerate(addresses)}
    site.pages |= {path: status(302, Location=text) for path, text in targets.items()}
    site.pages |= {
        "/range": lambda request: request.send(206, clip, Content_Range="bytes \xb2-9/" + "9" * 5000),
        "/blank": status(302, Location="  /good "),
        "/good": plain(clip),
        "/silly": lambda request: request.wfile.write(b"what?\r\n\r\n"),
    }
    paths = [*lengths, *targets, "/range", "/blank", "/silly"]
    rows = fetched(*(site.url(path) for path in paths), "  " + site.url("/good"), options=QUICK_ONCE)
    found = dict(zip([*paths, "leading blank"], (row.outcome for row in rows), strict=True))
    assert {found[path] for path in lengths} <= {"ok", "truncated", "unreachable"}
    assert [found[path] for path in targets] == ["bad link"] * 3
    assert (found["/range"], found["/silly"]) == ("server error", "unreachable")
    assert (found["/blank"], found["leading blank"]) == ("ok", "ok")
    site.pages["/wait"] = status(503, Retry_After="9" * 5000)
    (tmp_path / "other").mkdir()
    (row,) = Fetched(tmp_path / "other")(site.url("/wait"), options=QUICK_ONCE)
    assert row.outcome == "server error"


def _slowly(first: bytes, drop: bytes, seconds: float = 20.0) -> Any:
    """An answer that begins at once and then comes a few bytes at a time, each well within the timeout."""

    def answer(request: Any) -> None:
        request.close_connection = True
        request.wfile.write(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            request.wfile.write(drop)
            request.wfile.flush()
            time.sleep(0.05)

    return answer


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
_SLOW_ANSWERS = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"."),
    "chunk size": (_CHUNKED, b"0"),
    "chunk": (_CHUNKED + b"ffff\r\n", b"."),
    "trailer": (_CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("part", _SLOW_ANSWERS)
def test_no_part_of_an_answer_holds_a_worker(site: Site, tmp_path: Path, part: str) -> None:
    site.pages["/slow"] = _slowly(*_SLOW_ANSWERS[part])
    began = time.monotonic()
    with pytest.raises(FetchFailure, match="timeout"):
        download(site.url("/slow"), tmp_path / "t", TransferLimits(0.5, allow_private=True), threading.Event())
    assert time.monotonic() - began < 10  # the host would go on for twenty seconds


def test_a_head_without_end_is_cut_off(site: Site, tmp_path: Path) -> None:
    site.pages["/long"] = _slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 5000)
    with pytest.raises(FetchFailure, match="head of the answer"):
        download(site.url("/long"), tmp_path / "t", TransferLimits(5.0, allow_private=True), threading.Event())


def test_addresses_that_wrap_private_ones_are_private() -> None:
    private = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1%eth0")
    wrapped = ("::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "fd00::1")
    assert not [text for text in (*private, *wrapped) if is_public(text)]
    assert all(map(is_public, ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")))


def test_a_refused_address_gets_no_tls_hello(fetched: Fetched) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
        (row,) = fetched(url, options=dataclasses.replace(QUICK, limits=TransferLimits(timeout=1.0)))
        assert (row.outcome, row.detail) == ("bad link", "leads to the private address 127.0.0.1")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_private_addresses_are_refused_unless_allowed(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/a.mp4"] = plain(clip)
    public = dataclasses.replace(QUICK, limits=TransferLimits(timeout=1.0))
    (row,) = fetched(site.url("/a.mp4"), options=public)
    assert (row.outcome, row.detail) == ("bad link", "leads to the private address 127.0.0.1")
    assert not site.seen
    (row,) = fetched(site.url("/a.mp4"), options=dataclasses.replace(QUICK, retry_dead=True))
    assert row.outcome == "ok"


def _certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", *made, *about, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def test_https_is_checked_like_http_and_certificates_too(
    site: Site, fetched: Fetched, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving() as safe:
        safe.socket = context.wrap_socket(safe.socket, server_side=True)
        safe.pages["/a"] = plain(clip)
        url = safe.url("/a").replace("http:", "https:")
        site.pages["/moved"] = status(302, Location=url)
        (row,) = fetched(url)
        assert (row.outcome, row.attempts) == ("unreachable", 1)
        assert "no safe connection" in row.detail
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        _trusted.cache_clear()
        try:
            public = dataclasses.replace(QUICK, limits=TransferLimits(timeout=1.0))
            assert fetched(url, options=public)[0].detail == "leads to the private address 127.0.0.1"
            retry = dataclasses.replace(QUICK, retry_dead=True)
            assert fetched.outcomes(url, site.url("/moved"), options=retry) == ["ok", "ok"]
        finally:
            _trusted.cache_clear()


def test_a_proxy_is_used_and_decides_for_itself(
    site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", site.url(""))
    site.pages["http://far.example/a.mp4"] = plain(clip)
    public = dataclasses.replace(QUICK, limits=TransferLimits(timeout=1.0))
    assert fetched.outcomes("http://far.example/a.mp4", options=public) == ["ok"]


def test_a_new_address_is_tried(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/new"] = plain(clip)
    assert fetched.outcomes(site.url("/old")) == ["dead"]
    assert fetched.outcomes(site.url("/new")) == ["ok"]


def test_only_web_addresses() -> None:
    assert host_of("HTTPS://Some.Host:80/a") == "some.host"
    for url in ("file:///etc/passwd", "a.mp4", "http:///a", "http://user:word@host/a", "http://h/\n", "http://[::1/a"):
        with pytest.raises(FetchFailure, match="bad link"):
            host_of(url)


def test_the_cap_on_bytes(site: Site, fetched: Fetched, clip: bytes) -> None:
    def endless(request: Any) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(clip[:4000])
        for _ in itertools.repeat(None, 1000):
            request.wfile.write(bytes(4000))

    site.pages |= {"/declared": plain(clip), "/endless": endless}
    limits = TransferLimits(timeout=5.0, max_bytes=len(clip) - 1, allow_private=True)
    options = dataclasses.replace(QUICK, limits=limits)
    assert fetched.outcomes(site.url("/declared"), site.url("/endless"), options=options) == ["too large"] * 2
    assert not list((fetched.out / ".fetch").glob("*.partial"))


def test_a_page_is_not_read_to_its_end(site: Site, fetched: Fetched) -> None:
    site.pages["/a"] = silent(b"<html>" + b"x" * 100_000, 5000, 3.0)
    began = time.monotonic()
    assert fetched.outcomes(site.url("/a")) == ["wrong type"]
    assert time.monotonic() - began < 2.5  # the host falls silent for three seconds


def test_a_trickle_is_a_timeout_and_keeps_what_came(site: Site, fetched: Fetched, clip: bytes) -> None:
    ended = threading.Event()
    site.pages["/a"] = in_turn(dripping(clip, 600, ended), ranged(clip))
    options = dataclasses.replace(QUICK, retries=0)
    began = time.monotonic()
    (row,) = fetched(site.url("/a"), options=options)
    ended.set()
    assert row.outcome == "timeout"
    assert time.monotonic() - began < 5.0
    assert fetched.outcomes(site.url("/a"), options=options) == ["ok"]
    assert int(site.seen[1][1]["Range"].removeprefix("bytes=").rstrip("-")) > 600


def test_hosts_are_asked_slowly_and_a_few_files_at_a_time(site: Site, fetched: Fetched, clip: bytes) -> None:
    for number in range(6):
        site.pages[f"/{number}"] = plain(clip)
    options = dataclasses.replace(QUICK, per_host=1, rate=10.0)
    fetched(*(site.url(f"/{number}") for number in range(6)), options=options)
    assert site.most_active == 1
    assert site.times[-1] - site.times[0] > 0.25  # 0.5, less what a busy machine delays the first


def test_slow_downloads_do_not_keep_the_others_waiting(
    site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("islr.data.fetch.run._SLOW_S", 0.1)
    ended = threading.Event()
    site.pages |= {"/slow": dripping(clip, 600, ended), "/good": plain(clip)}
    options = dataclasses.replace(QUICK_ONCE, jobs=1)
    rows = fetched(site.url("/slow"), site.url("/good"), options=options)
    assert [row.outcome for row in rows] == ["timeout", "ok"]
    assert site.times[1] - site.times[0] < 0.9  # the slow one is given up after a second


def test_no_exchange_lasts_longer_than_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ExchangeClock(TransferLimits())
    clock.begin_body()
    clock.received = 10**12
    assert clock.left() > 0
    monkeypatch.setattr("islr.data.fetch.connection.LONGEST_EXCHANGE_S", 0.0)
    with pytest.raises(TimeoutError):
        clock.left()


def test_one_slow_host_does_not_hold_up_the_others() -> None:
    schedule = Schedule([("a", 1), ("a", 2), ("b", 3)], per_host=1, rate=1000.0)
    assert [schedule.take(), schedule.take()] == [("a", 1), ("b", 3)]
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(schedule.take()))
    thread.start()
    schedule.done("b")
    time.sleep(0.05)
    assert not taken
    schedule.done("a")
    thread.join(5)
    assert taken == [("a", 2)]
    schedule.again("a", 2, 0.05)
    began = time.monotonic()
    assert schedule.take() == ("a", 2)
    assert time.monotonic() - began > 0.04
    schedule.done("a")
    assert schedule.take() is None


def test_ranges_are_cut_out_exactly(site: Site, fetched: Fetched, tmp_path: Path) -> None:
    make_video(tmp_path / "long.mp4", 200)
    site.pages["/long.mp4"] = plain((tmp_path / "long.mp4").read_bytes())
    url = site.url("/long.mp4")
    spans = [(11, 35), (1, 30), (50, -1), (1, -1), (176, 200)]
    rows = fetched(*({"url": url, "frame_start": first, "frame_end": last} for first, last in spans))
    assert [row.outcome for row in rows] == ["ok"] * 5
    assert site.asked() == {"/long.mp4": 1}
    assert [row.trimmed for row in rows] == ["yes", "yes", "yes", "no", "yes"]
    for row, (first, last) in zip(rows, spans, strict=True):
        frames = decode(fetched.out / row.file)
        assert numbers_of(frames) == list(range(first - 1, last if last > 0 else 200)), (first, last)
        assert row.frames == len(frames)
    whole = decode(tmp_path / "long.mp4")[10:35].astype(int)
    assert np.abs(decode(fetched.out / "00000.mp4").astype(int) - whole).mean() < 4
    assert not list((fetched.out / ".fetch").glob("*.cut"))
    # The manifest takes what was cut as it is, even where a range without an end would fit into the cut file.
    manifest = from_wlasl(fetched.json, fetched.out, trimmed=trimmed_ids(fetched.out), workers=0)
    assert [(c.start, c.end, c.frames) for c in manifest] == [(None, None, row.frames) for row in rows]
    assert manifest.notes["ranges_of_clips_already_cut"] == 4


def test_whole_videos_when_asked(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/a.mp4"] = plain(clip)
    span = {"url": site.url("/a.mp4"), "frame_start": 11, "frame_end": 20}
    rows = fetched(span, {**span, "frame_start": 21, "frame_end": 30}, options=dataclasses.replace(QUICK, trim=False))
    assert [(row.outcome, row.trimmed, row.frames) for row in rows] == [("ok", "no", 40)] * 2
    assert site.asked() == {"/a.mp4": 1}
    first, second = (fetched.out / row.file for row in rows)
    assert first.stat().st_ino == second.stat().st_ino  # the same bytes are stored once
    manifest = from_wlasl(fetched.json, fetched.out, trimmed=trimmed_ids(fetched.out), workers=0)
    assert [(c.start, c.end, c.frames) for c in manifest] == [(0.4, 0.8, 10), (0.8, 1.2, 10)]


def test_where_the_disk_has_no_links_files_are_copied(
    site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    site.pages["/a.mp4"] = plain(clip)
    assert fetched.outcomes(*[site.url("/a.mp4")] * 2) == ["ok", "ok"]
    assert [(fetched.out / name).read_bytes() for name in fetched.videos()] == [clip, clip]


def test_cuts_keep_times_and_odd_sizes_and_stand_upright(tmp_path: Path) -> None:
    times = [0.04 * index + (0.02 if index % 3 else 0.0) for index in range(40)]
    make_video(tmp_path / "a.mp4", 40, times=times)
    made = cut(tmp_path / "a.mp4", (0.4, 1.2), tmp_path / "cut")
    inside = [index for index, seconds in enumerate(times) if 0.4 <= seconds < 1.2]
    assert numbers_of(decode(tmp_path / "cut")) == inside
    assert made.frames == len(inside)
    with av.open(str(tmp_path / "cut")) as container:
        found = [float(frame.time or 0) for frame in container.decode(video=0)]
    assert np.allclose(found, [times[index] - times[inside[0]] for index in inside], atol=1e-4)
    make_video(tmp_path / "odd.mp4", 40, size=(97, 65), pixels="yuv444p")
    cut(tmp_path / "odd.mp4", (0.4, None), tmp_path / "odd_cut")
    info = probe_video(tmp_path / "odd_cut")
    assert (info.frames, info.width, info.height) == (30, 97, 65)
    make_rotated(tmp_path / "turned.mp4", 90)
    cut(tmp_path / "turned.mp4", (0.4, 1.0), tmp_path / "turned_cut")
    assert numbers_of(decode(tmp_path / "turned_cut")) == list(range(10, 25))


def test_files_are_called_what_they_are(site: Site, fetched: Fetched, tmp_path: Path) -> None:
    kinds = {".swf": "flv", ".mov": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9", ".flv": "flv", ".mkv": "libx264"}
    kinds |= {".ts": "libx264", ".mpg": "mpeg1video", ".mp4": "libx264"}
    for suffix, codec in kinds.items():
        made = make_video(tmp_path / f"a{suffix}", 40, codec=codec).read_bytes()
        assert container_suffix(made[:512]) == suffix
        site.pages[f"/a{suffix}.mp4"] = plain(made)
    rows = fetched(*(site.url(path) for path in site.pages))
    assert [(row.outcome, row.file) for row in rows] == [
        ("ok", f"{number:05d}{suffix}") for number, suffix in enumerate(kinds)
    ]
    assert container_suffix(b"\0\0\0\x08wide\0\0\0\0mdat") == ".mov"
    assert container_suffix(b"<html>") is container_suffix(b"") is None


def test_a_second_run_asks_only_for_what_is_not_there(site: Site, fetched: Fetched, clip: bytes) -> None:
    for name in "abc":
        site.pages[f"/{name}"] = plain(clip)
    urls = [site.url(f"/{name}") for name in "abc"]
    fetched(*urls)
    stamps = [row.at for row in fetched(*urls)]
    assert len(site.seen) == 3
    assert all(stamps)
    (fetched.out / "00001.mp4").unlink()
    path = fetched.out / "00002.mp4"
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.unlink()
    path.write_bytes(spoilt)
    assert fetched.outcomes(*urls) == ["ok"] * 3
    assert sorted(site.asked().items()) == [("/a", 1), ("/b", 2), ("/c", 2)]
    assert path.read_bytes() == clip


def test_a_good_file_is_never_replaced_by_a_bad_one(site: Site, fetched: Fetched, clip: bytes, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 60).read_bytes()
    fetched.out.mkdir()
    good, bad = fetched.out / "00000.mp4", fetched.out / "00001.avi"
    good.write_bytes(other)
    bad.write_bytes(b"not a video")
    site.pages |= {"/0": plain(clip), "/1": in_turn(page(), plain(clip))}
    urls = [site.url("/0"), site.url("/1")]
    rows = fetched(*urls)
    assert (rows[0].outcome, rows[0].detail) == ("ok", "was there before")
    assert (good.read_bytes(), rows[0].frames) == (other, 60)
    assert "/0" not in site.asked()
    assert rows[1].outcome == "wrong type"
    assert bad.read_bytes() == b"not a video"  # whatever it is, it is the user's until there is better
    retry = dataclasses.replace(QUICK, retry_dead=True)
    assert fetched.outcomes(*urls, options=retry) == ["ok", "ok"]
    assert fetched.videos() == ["00000.mp4", "00001.mp4"]

    # A file that rotted is fetched again, and stays while that fails.
    good.write_bytes(clip)
    site.pages["/0"] = status(404)
    assert fetched.outcomes(*urls) == ["dead", "ok"]
    assert fetched.outcomes(*urls) == ["dead", "ok"]
    assert good.read_bytes() == clip


def test_youtube_videos_come_once_whoever_uses_them(fetched: Fetched, tmp_path: Path) -> None:
    script = fake_yt_dlp(tmp_path / "tool")
    make_video(tmp_path / "tool" / "long.mp4", 200).rename(tmp_path / "tool" / "videos" / "abcdefghijk")
    says = {
        "private_vid": "ERROR: [youtube] private_vid: Private video. Sign in if you've been granted access",
        "sign_in_vid": "ERROR: [youtube] sign_in_vid: Sign in to confirm you're not a bot.",
        "offline_vid": "ERROR: [youtube] offline_vid: Unable to download API page: Failed to resolve 'x'",
    }
    for video, text in says.items():
        (tmp_path / "tool" / "says" / video).write_text(text)
    (tmp_path / "tool" / "videos" / "too_big_vid").write_bytes(bytes(1 << 20))
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("")
    limits = TransferLimits(timeout=1.0, max_bytes=(tmp_path / "tool" / "videos" / "abcdefghijk").stat().st_size)
    options = dataclasses.replace(QUICK, yt_dlp=(sys.executable, str(script)), limits=limits, cookies=cookies)
    rows = fetched(
        {"url": "https://www.youtube.com/watch?v=abcdefghijk&list=PL123", "frame_start": 26, "frame_end": 50},
        {"url": "https://youtu.be/abcdefghijk", "frame_start": 101, "frame_end": 140},
        {"url": "https://youtu.be/abcdefghijk", "frame_start": 180, "frame_end": 260},
        *(f"https://www.youtube.com/watch?v={video}" for video in (*says, "too_big_vid")),
        "https://www.youtube.com/playlist?list=PL123",
        options=options,
    )
    wanted = ["ok", "ok", "too short", "dead", "blocked", "unreachable", "too large", "bad link"]
    assert [row.outcome for row in rows] == wanted
    assert numbers_of(decode(fetched.out / "00000.mp4")) == list(range(25, 50))
    assert numbers_of(decode(fetched.out / "00001.mp4")) == list(range(100, 140))
    calls = [json.loads(line) for line in (tmp_path / "tool" / "calls.jsonl").read_text().splitlines()]
    asked = [call[-1] for call in calls]
    assert asked.count("https://www.youtube.com/watch?v=abcdefghijk") == 1
    assert asked.count("https://www.youtube.com/watch?v=offline_vid") == 3  # it may come back
    assert all("--no-playlist" in call and call[call.index("--cookies") + 1] == str(cookies) for call in calls)
    assert rows[-1].detail == "a YouTube address that shows no single video"
    assert {path.name for path in (fetched.out / ".fetch").iterdir()} == {"lock", "journal.jsonl"}


def test_what_yt_dlp_says() -> None:
    for line, outcome, retry in (
        ("ERROR: [youtube] x: Video unavailable", "dead", False),
        ("ERROR: [youtube] x: This video has been removed by the uploader", "dead", False),
        ("ERROR: [youtube] x: Video unavailable. The uploader has not made this video available in your country", 0, 0),
        ("ERROR: [youtube] x: Sign in to confirm your age. This video may be inappropriate", "blocked", False),
        ("ERROR: unable to download video data: HTTP Error 403: Forbidden", "blocked", False),
        ("ERROR: [youtube] x: The read operation timed out", "timeout", True),
        ("ERROR: [youtube] x: Something else altogether", "server error", True),
        ("", "server error", True),
    ):
        failure = _failure(f"[youtube] noise\n{line}\n", 1)
        assert (failure.outcome, failure.retry) == (outcome or "blocked", bool(retry)), line
    with pytest.raises(OSError, match="No space left"):
        _failure("ERROR: unable to write data: [Errno 28] No space left on device", 1)


def test_youtube_ids() -> None:
    for url in (
        "https://www.youtube.com/watch?v=abc_efghi-k",
        "www.youtube.com/watch?app=desktop&v=abc_efghi-k&t=3",
        "http://youtu.be/abc_efghi-k?t=5",
        "https://m.youtube.com/embed/abc_efghi-k",
        "https://www.youtube.com/shorts/abc_efghi-k",
    ):
        assert youtube_id(url) == "abc_efghi-k", url
    for url in (
        "https://www.youtube.com/playlist?list=abcdefghijk",
        "https://other.com/watch?v=abcdefghijk",
        "https://notyoutube.com/watch?v=abcdefghijk",
        "https://youtu.be/abcdefghijkl",
        "",
    ):
        assert youtube_id(url) is None, url


def test_a_video_that_hangs_the_decoder_costs_only_its_clip(
    site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("islr.processes.worker.START_S", 0.0)
    monkeypatch.setattr("islr.data.fetch.cut.deadline_of", lambda path: 0.0)
    monkeypatch.setattr("islr.data.fetch.cut._POLL_S", 0.0)
    site.pages["/a"] = plain(clip)
    (row,) = fetched(site.url("/a"))  # no process can start in no time
    assert (row.outcome, fetched.videos()) == ("timeout", [])
    monkeypatch.undo()
    assert fetched.outcomes(site.url("/a")) == ["ok"]


def _command(json_file: Path, out: Path, *more: str) -> list[str]:
    given = ["--json", str(json_file), "--out", str(out), "--allow-private", "--workers", "1", "--rate", "1000"]
    return [sys.executable, "-m", "islr", "data", "fetch", *given, *more]


def _wait_until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 75), (signal.SIGTERM, 75)]
)
def test_stopped_half_way_and_continued(
    site: Site, tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str], how: int, code: int
) -> None:
    ended = threading.Event()
    site.pages |= {
        "/done": plain(clip),
        "/dead": status(404),
        "/half": in_turn(dripping(clip, 3000, ended), ranged(clip)),
    }
    json_file = write_json(
        tmp_path / "w.json",
        {"a": [instance(name, "train", url=site.url(f"/{name}")) for name in ("done", "dead", "half")]},
    )
    out = tmp_path / "out"
    process = subprocess.Popen(_command(json_file, out), stderr=subprocess.PIPE, text=True)
    journal = out / ".fetch" / "journal.jsonl"
    _wait_until(lambda: journal.is_file() and journal.read_text().count("\n") == 2 and "/half" in site.asked())
    _wait_until(lambda: any(path.stat().st_size >= 3000 for path in (out / ".fetch").glob("*.partial")))
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    ended.set()
    assert process.returncode == code
    if code == 75:
        assert "run the same command again to go on" in said.strip().splitlines()[-1]
        assert "Traceback" not in said
    assert (out / "done.mp4").read_bytes() == clip
    assert not (out / "half.mp4").exists()
    assert run(_command(json_file, out)[3:]) == 0
    assert site.asked() == {"/done": 1, "/dead": 1, "/half": 2}
    assert int(site.seen[-1][1]["Range"].removeprefix("bytes=").rstrip("-")) >= 3000
    assert (out / "half.mp4").read_bytes() == clip
    shown = capsys.readouterr().out
    assert "dead: the address holds no video any more" in shown
    assert shown.strip().endswith("fetch.csv")
    with (out / "fetch.csv").open() as file:
        assert [(row["video_id"], row["outcome"]) for row in csv.DictReader(file)] == [
            ("done", "ok"),
            ("dead", "dead"),
            ("half", "ok"),
        ]


def test_a_yt_dlp_that_outlives_a_kill_keeps_the_folder(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    script = fake_yt_dlp(tool)
    program = tool / "yt-dlp"
    program.write_text(f'#!/bin/sh\necho $$ > {tool}/pid\nexec {sys.executable} {script} "$@"\n')
    program.chmod(0o755)
    (tool / "hang").touch()
    out = tmp_path / "out"
    json_file = write_json(tmp_path / "w.json", {"a": [instance("1", "train", url="https://youtu.be/abcdefghijk")]})
    code = (
        "import sys; from islr.data.fetch.run import *; "
        f"fetch(sys.argv[1], sys.argv[2], FetchOptions(yt_dlp=({str(program)!r},)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(json_file), str(out)])
    _wait_until(lambda: list((out / ".fetch").glob("*.part")))
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="yt-dlp it left behind, still fetches into it"):
        fetch(json_file, out, QUICK)
    os.kill(int((tool / "pid").read_text()), signal.SIGKILL)
    _wait_until(lambda: _unlocked(json_file, out))


def _unlocked(json_file: Path, out: Path) -> bool:
    try:
        return fetch(json_file, out, QUICK)[0].outcome == "needs yt-dlp"
    except UserError:
        return False


def test_a_run_that_is_told_to_stop_ends_yt_dlp(fetched: Fetched, tmp_path: Path) -> None:
    from islr.data.fetch.youtube import download_youtube

    script = fake_yt_dlp(tmp_path / "tool")
    (tmp_path / "tool" / "hang").touch()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        download_youtube("abcdefghijk", tmp_path / "t", TransferLimits(), stop, [sys.executable, str(script)])
    assert time.monotonic() - began < 10


def test_a_full_disk_stops_the_run(site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    site.pages |= {"/a": plain(clip), "/b": status(404)}
    monkeypatch.setattr("islr.data.fetch.http._receive", full)
    with pytest.raises(OSError, match="No space left"):
        fetched(site.url("/a"))
    monkeypatch.undo()
    assert fetched.outcomes(site.url("/a"), site.url("/b")) == ["ok", "dead"]


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], fetched: Fetched) -> None:
    write_json(fetched.json, {"a": [instance("1", "train")]})
    with pytest.raises(UserError, match=r"subset 3: .* has 1 glosses"):
        fetch(fetched.json, fetched.out, QUICK, subset=3)
    write_json(fetched.json, {"a": [instance("../1", "train")]})
    with pytest.raises(UserError, match="cannot be a file name"):
        fetch(fetched.json, fetched.out, QUICK)
    write_json(fetched.json, {"a": [instance("1", "train")]})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be a folder"):
        fetch(fetched.json, tmp_path / "file", QUICK)
    fetched.out.mkdir()
    (fetched.out / "fetch.csv").write_text("id,outcome\n")
    assert run(["data", "fetch", "--json", str(fetched.json), "--out", str(fetched.out)]) == 2
    assert "not a table that `islr data fetch` wrote" in capsys.readouterr().err
    assert run(["data", "fetch", "--json", str(fetched.json), "--out", str(fetched.out), "--cookies", "none.txt"]) == 2
    assert "none.txt: no such file" in capsys.readouterr().err


def test_a_range_beyond_the_video_has_no_frames(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no frames"):
        cut(make_video(tmp_path / "a.mp4", 20), (2.0, 3.0), tmp_path / "cut")
