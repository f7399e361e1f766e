"""One transfer: continued where that is safe, given up where a host is slow, endless or hostile."""

import dataclasses
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.fetched import QUICK, QUICK_ONCE, Fetched
from support.video_files import make_video
from support.web_files import (
    Site,
    cut_short,
    dripping,
    in_turn,
    plain,
    ranged,
    status,
    status_and_body,
)

from islr.data.fetch.connection import ExchangeClock
from islr.data.fetch.failure import FetchFailure, TransferLimits
from islr.data.fetch.http import _retry_after, download


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


def test_retry_after_may_be_a_date() -> None:
    assert _retry_after("120") == 120
    assert _retry_after(None) is _retry_after("soon") is None
    ahead = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 60 <= (_retry_after(ahead) or 0) <= 100
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


def _slowly(first: bytes, drop: bytes, seconds: float = 10.0) -> Any:
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
    # The host goes on for ten seconds and then hangs up, which is no timeout.
    with pytest.raises(FetchFailure, match="timeout"):
        download(site.url("/slow"), tmp_path / "t", TransferLimits(0.2, allow_private=True), threading.Event())


def test_a_head_without_end_is_cut_off(site: Site, tmp_path: Path) -> None:
    site.pages["/long"] = _slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 5000)
    with pytest.raises(FetchFailure, match="head of the answer"):
        download(site.url("/long"), tmp_path / "t", TransferLimits(5.0, allow_private=True), threading.Event())


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
    ended = threading.Event()

    def silent_page(request: Any) -> None:
        request.send(200, b"<html>" + b"x" * 5000, Content_Length="100000")
        request.wfile.flush()
        ended.wait(60)

    site.pages["/a"] = silent_page
    options = dataclasses.replace(QUICK, limits=TransferLimits(timeout=20.0, allow_private=True))
    (row,) = fetched(site.url("/a"), options=options)
    ended.set()
    assert (row.outcome, row.attempts) == ("wrong type", 1)
    assert "timeout" not in row.detail


def test_a_trickle_is_a_timeout_and_keeps_what_came(site: Site, fetched: Fetched, clip: bytes) -> None:
    ended = threading.Event()
    site.pages["/a"] = in_turn(dripping(clip, 600, ended), ranged(clip))
    options = dataclasses.replace(QUICK_ONCE, limits=TransferLimits(timeout=0.4, allow_private=True))
    (row,) = fetched(site.url("/a"), options=options)  # whole, the clip would take minutes
    ended.set()
    assert row.outcome == "timeout"
    assert fetched.outcomes(site.url("/a"), options=QUICK_ONCE) == ["ok"]
    assert int(site.seen[1][1]["Range"].removeprefix("bytes=").rstrip("-")) > 600


def test_no_exchange_lasts_longer_than_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ExchangeClock(TransferLimits())
    clock.begin_body()
    clock.received = 10**12
    assert clock.left() > 0
    monkeypatch.setattr("islr.data.fetch.connection.LONGEST_EXCHANGE_S", 0.0)
    with pytest.raises(TimeoutError):
        clock.left()
