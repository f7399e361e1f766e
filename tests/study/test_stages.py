"""Stages: order, parallelism, failures that stay local, interruption."""

import os
import signal
import time
from pathlib import Path

import pytest

from islr.errors import Interrupted, UserError
from islr.processes.signals import StopSignal
from islr.study.launchers import Processes
from islr.study.stages import Stage, run_stages


def _execute(arguments: list[str]) -> int:
    """Commands of the tests: write a file, fail, or sleep."""
    verb, path = arguments[0], Path(arguments[1])
    if verb == "fail":
        print("islr: it broke")
        return 1
    if verb == "sleep":
        time.sleep(30)
    path.write_text(str(time.monotonic()))
    return 0


def _stage(folder: Path, name: str, verb: str = "write", needs: tuple[str, ...] = ()) -> Stage:
    return Stage(name, (verb, str(folder / name)), folder / name, needs)


def test_order_and_failures(tmp_path: Path) -> None:
    stages = [
        _stage(tmp_path, "last", needs=("middle",)),
        _stage(tmp_path, "middle", needs=("first",)),
        _stage(tmp_path, "first"),
        _stage(tmp_path, "broken", "fail"),
        _stage(tmp_path, "orphan", needs=("broken", "first")),
    ]
    said: list[str] = []
    outcomes = {o.stage.name: o for o in run_stages(stages, Processes(_execute), tmp_path / "logs", 2, said.append)}
    assert {name: o.state for name, o in outcomes.items()} == {
        "last": "done",
        "middle": "done",
        "first": "done",
        "broken": "failed",
        "orphan": "skipped",
    }
    assert "it broke" in outcomes["broken"].why
    times = [float((tmp_path / name).read_text()) for name in ("first", "middle", "last")]
    assert times == sorted(times)
    again = run_stages(stages[:3], Processes(_execute), tmp_path / "logs", 2, said.append)
    assert {o.state for o in again} == {"already done"}


def test_bad_plans_are_refused(tmp_path: Path) -> None:
    circle = [_stage(tmp_path, "a", needs=("b",)), _stage(tmp_path, "b", needs=("a",))]
    with pytest.raises(UserError, match="circle: a, b"):
        run_stages(circle, Processes(_execute), tmp_path, 1)
    with pytest.raises(UserError, match="needs ghost"):
        run_stages([_stage(tmp_path, "a", needs=("ghost",))], Processes(_execute), tmp_path, 1)


def test_signal_ends_the_running_stage(tmp_path: Path) -> None:
    stages = [_stage(tmp_path, "long", "sleep"), _stage(tmp_path, "next", needs=("long",))]
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="0 of 2 stages done"):
        run_stages(stages, Processes(_execute), tmp_path / "logs", 2, lambda line: None)
    assert time.monotonic() - began < 10
    assert not (tmp_path / "long").exists()


def test_a_stage_that_waits_for_all_makes_do_with_what_there_is(tmp_path: Path) -> None:
    """A partial result never stands in for the whole one, once what had failed is there."""

    def over(lost: frozenset[str]) -> Stage:
        name = "-".join(sorted({"good", "shaky"} - lost))
        return Stage("sum", ("write", str(tmp_path / name)), tmp_path / name, (), ("good", "shaky"), settle=over)

    for verb, made in (("fail", "good"), ("fail", "good"), ("write", "good-shaky")):
        stages = [over(frozenset()), _stage(tmp_path, "good"), _stage(tmp_path, "shaky", verb)]
        outcomes = run_stages(stages, Processes(_execute), tmp_path / "logs", 2, lambda line: None)
        assert outcomes[0].stage.done.name == made
        assert outcomes[0].stage.done.exists()
    assert [outcome.state for outcome in outcomes] == ["done", "already done", "done"]


def _save_slowly(arguments: list[str]) -> int:
    """A stage whose steps take a second and a half, and which saves on SIGTERM or SIGINT."""
    path = Path(arguments[1])
    with StopSignal() as stop:
        path.with_suffix(".began").touch()
        while not stop.received:
            time.sleep(0.02)
        time.sleep(1.5)
        path.with_suffix(".saved").touch()
    return 75


def test_ctrl_c_reaches_a_stage_once_and_it_saves(tmp_path: Path) -> None:
    launcher = os.fork()
    if launcher == 0:
        os.setsid()
        try:
            run_stages([_stage(tmp_path, "slow")], Processes(_save_slowly), tmp_path / "logs", 1, lambda line: None)
        except Interrupted:
            os._exit(75)
        os._exit(1)
    while not (tmp_path / "slow.began").exists():
        time.sleep(0.02)
    os.killpg(launcher, signal.SIGINT)  # as a terminal does
    _, status = os.waitpid(launcher, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    assert (tmp_path / "slow.saved").exists()


def test_one_request_may_come_as_several_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
        assert not ended
        monkeypatch.setattr("islr.processes.signals._SAME_REQUEST_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
    assert ended == [128 + signal.SIGTERM]


def test_an_emptied_result_is_not_a_result(tmp_path: Path) -> None:
    done = tmp_path / "result.json"
    stage = Stage("a", ("write", str(done)), done)
    for content in ("", "{}", '{"version": 1, "provenance": {}, "results": []}'):
        done.write_text(content)
        with pytest.raises(UserError, match=r"result\.json.*delete it to run a again"):
            run_stages([stage], Processes(_execute), tmp_path / "logs", 1)
