"""Hosts: how often and how many at once they are asked, when they are left alone, and which are refused."""

import dataclasses
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.fetched import QUICK, QUICK_ONCE, Fetched
from support.web_files import (
    Site,
    dripping,
    in_turn,
    plain,
    serving,
    status,
)

from islr.data.fetch.connection import _trusted, is_public
from islr.data.fetch.failure import FetchFailure, TransferLimits
from islr.data.fetch.http import host_of
from islr.data.fetch.schedule import Schedule


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

    def good(request: Any) -> None:
        plain(clip)(request)
        ended.set()

    site.pages |= {"/slow": dripping(clip, 600, ended), "/good": good}
    limits = TransferLimits(timeout=20.0, allow_private=True)
    options = dataclasses.replace(QUICK_ONCE, jobs=1, limits=limits)
    rows = fetched(site.url("/slow"), site.url("/good"), options=options)
    # The slow one ends with the good one; had that waited for it, it would be a timeout or whole.
    assert [row.outcome for row in rows] == ["truncated", "ok"]


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


def test_only_web_addresses() -> None:
    assert host_of("HTTPS://Some.Host:80/a") == "some.host"
    for url in ("file:///etc/passwd", "a.mp4", "http:///a", "http://user:word@host/a", "http://h/\n", "http://[::1/a"):
        with pytest.raises(FetchFailure, match="bad link"):
            host_of(url)


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
