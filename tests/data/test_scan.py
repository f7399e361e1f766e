"""The scan: parallel equals serial, and a file that hangs or kills its decoder costs only itself."""

import os
from pathlib import Path

import pytest
from support.video_files import make_video

from islr.data.video.scan import ScanJob, Scanned, find_videos, measure_job, scan
from islr.files import file_sha256


def measure_or_misbehave(job: ScanJob, root: Path) -> Scanned:
    """Stands in for decoding: the file's name says what happens."""
    if "hang" in job.path.name:
        while True:  # a decoder's endless loop; nothing but the end of its process stops it
            pass
    if "crash" in job.path.name:
        os.kill(os.getpid(), 9)
    return Scanned("ok", int(job.path.stem), 25.0, 8, 8, (0,) * len(job.ranges), f"{int(job.path.stem):064d}")


def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    for number in range(1, 6):
        make_video(tmp_path / f"{number}.mp4", 4 * number, size=(96 + 32 * (number % 2), 64))
    (tmp_path / "6.mp4").write_bytes(b"text")
    jobs = [ScanJob(path, ((0.0, 0.2),)) for path in find_videos(tmp_path)]
    progress: list[tuple[int, int]] = []
    serial = scan(jobs, tmp_path, workers=0)
    assert scan(jobs, tmp_path, workers=2, progress=lambda *done: progress.append(done)) == serial
    assert [result.frames for result in serial] == [4, 8, 12, 16, 20, 0]
    assert [result.counts for result in serial[:3]] == [(4,), (5,), (5,)]
    assert serial[5].status == "corrupt:not a video"
    assert serial[1].duration == pytest.approx(8 / 25)
    assert progress == [(number, 6) for number in range(1, 7)]


def test_hanging_and_dying_decoders_cost_their_own_file_only(tmp_path: Path) -> None:
    names = ["1.mp4", "hang.mp4", "2.mp4", "crash.mp4", "3.mp4", "4.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    jobs = [ScanJob(tmp_path / name) for name in names]
    cache = tmp_path / "scan.json"
    found = scan(jobs, tmp_path, workers=2, deadline_s=1.5, cache=cache, measure_one=measure_or_misbehave)
    assert [result.status for result in found] == [
        "ok",
        "corrupt:deadline",
        "ok",
        "corrupt:crash",
        "ok",
        "ok",
    ]
    # What may have been the machine's fault is tried again; the rest is known.
    assert "hang.mp4" not in cache.read_text()
    assert str(tmp_path / "4.mp4") in cache.read_text()


def test_missing_file_is_missing_and_outside_files_are_not_opened(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 2)
    (tmp_path / "root").mkdir()
    found = scan([ScanJob(tmp_path / "root" / "b.mp4"), ScanJob(tmp_path / "a.mp4")], tmp_path / "root", workers=0)
    assert [result.status for result in found] == ["missing", "corrupt:outside root"]


def test_cache_is_used_only_if_it_knows_the_ranges(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    cache = tmp_path / "scan.json"
    assert scan([ScanJob(path)], tmp_path, workers=0, cache=cache)[0].counts == ()
    assert scan([ScanJob(path, ((0.0, 0.4),))], tmp_path, workers=0, cache=cache)[0].counts == (10,)
    calls: list[ScanJob] = []

    def refuse(job: ScanJob, root: Path) -> Scanned:
        calls.append(job)
        return Scanned("ok")

    again = scan([ScanJob(path, ((0.0, 0.4),))], tmp_path, workers=0, cache=cache, measure_one=refuse)
    assert again[0].counts == (10,)
    assert calls == []


def refuse(job: ScanJob, root: Path) -> Scanned:
    """Stands in for decoding where nothing may be decoded."""
    raise AssertionError(f"{job.path} was decoded again")


def test_a_moved_or_touched_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    first = make_video(tmp_path / "old" / "a.mp4", 5)
    (tmp_path / "old" / "b.mp4").write_bytes(b"text")
    jobs = [ScanJob(path) for path in find_videos(tmp_path)]
    cache = tmp_path / "scan.json"
    known = scan(jobs, tmp_path, workers=0, cache=cache)
    assert [result.status for result in known] == ["ok", "corrupt:not a video"]
    assert known[0].sha256 == file_sha256(first)
    (tmp_path / "old").rename(tmp_path / "new")
    os.utime(tmp_path / "new" / "a.mp4", (1, 1))
    moved = [ScanJob(path) for path in find_videos(tmp_path)]
    assert scan(moved, tmp_path, workers=0, cache=cache, measure_one=refuse) == known


def test_other_bytes_of_equal_size_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"text")
    cache = tmp_path / "scan.json"
    before = scan([ScanJob(path)], tmp_path, workers=0, cache=cache)
    path.write_bytes(b"TEXT")
    after = scan([ScanJob(path)], tmp_path, workers=0, cache=cache)
    assert before[0].sha256 != after[0].sha256


def test_an_interrupted_scan_goes_on(tmp_path: Path) -> None:
    for number in range(1, 5):
        make_video(tmp_path / f"{number}.mp4", number)
    jobs = [ScanJob(path) for path in find_videos(tmp_path)]
    cache = tmp_path / "scan.json"
    decoded: list[str] = []

    def stop_at_third(job: ScanJob, root: Path) -> Scanned:
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(job.path.name)
        return measure_job(job, root)

    with pytest.raises(KeyboardInterrupt):
        scan(jobs, tmp_path, workers=0, cache=cache, measure_one=stop_at_third)
    rest: list[str] = []

    def count(job: ScanJob, root: Path) -> Scanned:
        rest.append(job.path.name)
        return measure_job(job, root)

    assert [found.frames for found in scan(jobs, tmp_path, workers=0, cache=cache, measure_one=count)] == [1, 2, 3, 4]
    assert rest == ["3.mp4", "4.mp4"]
