"""Fetching: what a run records, does again, keeps and refuses, on a server of our own; nothing leaves the machine."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest
from support.fetched import QUICK, Fetched
from support.video_files import make_cut_between_frames, make_flipped, make_video
from support.web_files import (
    Site,
    cut_short,
    in_turn,
    page,
    plain,
    ranged,
    silent,
    status,
)
from support.wlasl_files import instance, write_json

from islr.cli import run
from islr.data.fetch.failure import TransferLimits
from islr.data.fetch.run import fetch
from islr.data.fetch.table import COLUMNS, FINAL, OUTCOMES, FetchedClip, summarise
from islr.data.video.guard import container_suffix
from islr.errors import UserError


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
    site.pages["/slow"] = status(404)
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


def test_a_new_address_is_tried(site: Site, fetched: Fetched, clip: bytes) -> None:
    site.pages["/new"] = plain(clip)
    assert fetched.outcomes(site.url("/old")) == ["dead"]
    assert fetched.outcomes(site.url("/new")) == ["ok"]


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


def test_where_the_disk_has_no_links_files_are_copied(
    site: Site, fetched: Fetched, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    site.pages["/a.mp4"] = plain(clip)
    assert fetched.outcomes(*[site.url("/a.mp4")] * 2) == ["ok", "ok"]
    assert [(fetched.out / name).read_bytes() for name in fetched.videos()] == [clip, clip]


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
    with pytest.raises(UserError, match="leads out of its folder"):
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
