"""A stopped run goes on where it was."""

import csv
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fetched import wait_until
from support.web_files import (
    Site,
    dripping,
    in_turn,
    plain,
    ranged,
    status,
)
from support.wlasl_files import instance, write_json

from islr.cli import run


def _command(json_file: Path, out: Path, *more: str) -> list[str]:
    given = ["--json", str(json_file), "--out", str(out), "--allow-private", "--workers", "1", "--rate", "1000"]
    return [sys.executable, "-m", "islr", "data", "fetch", *given, *more]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
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
    wait_until(lambda: journal.is_file() and journal.read_text().count("\n") == 2 and "/half" in site.asked())
    wait_until(lambda: any(path.stat().st_size >= 3000 for path in (out / ".fetch").glob("*.partial")))
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
