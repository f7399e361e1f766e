"""YouTube: whose videos yt-dlp fetches, what its errors mean, and how it ends with the run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.fetched import QUICK, Fetched, wait_until
from support.video_files import make_video, numbers_of
from support.web_files import (
    fake_yt_dlp,
)
from support.wlasl_files import instance, write_json

from islr.data.corpora.youtube import youtube_id
from islr.data.fetch.failure import Stopped, TransferLimits
from islr.data.fetch.run import fetch
from islr.data.fetch.youtube import _failure
from islr.data.video.decode import decode
from islr.errors import UserError


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
    wait_until(lambda: list((out / ".fetch").glob("*.part")))
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="yt-dlp it left behind, still fetches into it"):
        fetch(json_file, out, QUICK)
    os.kill(int((tool / "pid").read_text()), signal.SIGKILL)
    wait_until(lambda: _unlocked(json_file, out))


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
    assert time.monotonic() - began < 25  # the stand-in would hang for thirty seconds
