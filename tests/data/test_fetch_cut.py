"""Time ranges of fetched videos: cut out exactly, or left whole when asked."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
from support.fetched import QUICK, Fetched
from support.video_files import make_rotated, make_video, numbers_of
from support.web_files import (
    Site,
    plain,
)

from islr.data.corpora.wlasl import from_wlasl
from islr.data.fetch.cut import cut
from islr.data.fetch.table import trimmed_ids
from islr.data.video.decode import decode, probe_video
from islr.data.video.guard import DecodeError


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


def test_a_range_beyond_the_video_has_no_frames(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no frames"):
        cut(make_video(tmp_path / "a.mp4", 20), (2.0, 3.0), tmp_path / "cut")
