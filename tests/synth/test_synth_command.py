"""`islr synth` on the command line: what it prints, and how it refuses."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from islr.cli import run
from islr.data.manifest import Manifest
from islr.errors import DONE, INTERRUPTED, WRONG_INPUT
from islr.synth import built_in_lexicon, write_lexicon

TINY = ("--signers", "1", "--reps", "1", "--size", "64", "--val-signers", "0", "--test-signers", "0")


def test_a_lexicon_of_yours_is_rendered_and_its_coverage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.csv"
    write_lexicon(table, built_in_lexicon(3))
    table.write_text(table.read_text().replace(",Z-shaped,", ",Other,", 1))
    out = tmp_path / "corpus"
    assert run(["synth", str(out), "--lexicon", str(table), "--signs", "2", "--difficulty", "easy", *TINY]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "2 signs: 1 rendered in full, 1 with a documented fallback",
        "     1  Movement.2.0 Other: drawn as a wave",
        str(out / "manifest.csv"),
    ]
    manifest = Manifest.load(out / "manifest.csv")
    assert len(manifest) == 2
    assert manifest.notes["difficulty"] == "easy"


def test_kind_is_a_choice_of_the_command(tmp_path: Path) -> None:
    assert run(["synth", str(tmp_path / "k"), "--kind", "actions", "--signs", "1", *TINY]) == DONE
    assert Manifest.load(tmp_path / "k" / "manifest.csv").classes == ("arm circles",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "actions", "--signs", "40"], "signs is 40, but there are 17 actions"),
        (["--kind", "dance"], "dance"),
        (["--difficulty", "studio"], "studio"),
    ],
)
def test_a_wrong_choice_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["synth", str(tmp_path / "out"), *arguments]) == WRONG_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _descendants(pid: int) -> set[int]:
    """Processes below one, from Linux's own table."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found |= {int(stat.parent.name)} | _descendants(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, INTERRUPTED)])
def test_a_stopped_rendering_leaves_no_process_and_can_be_continued(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "corpus"
    options = ["--signs", "40", "--signers", "3", "--size", "64", "--val-signers", "0", "--test-signers", "0"]
    command = [sys.executable, "-m", "islr", "synth", str(out), *options, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while len(list(out.glob("poses/*.npz"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < until, "nothing was rendered"
        time.sleep(0.05)
    children = _descendants(process.pid)
    assert len(children) >= 2
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    if code == INTERRUPTED:
        assert re.search(r"^islr: stopped at clip \d+ of 240; run the same command to go on$", said, re.MULTILINE)
    until = time.monotonic() + 10
    while any(map(_alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in children if _alive(pid)]
    assert not (out / "manifest.csv").exists()
