"""Runs of two processes: one is killed, late or fails; their number changes; evaluation is one process's."""

import os
import platform
import re
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.process_groups import background, hold_run_folder, log_of, run_command, run_world, start_world
from support.tiny_runs import FINETUNE, PRETRAIN, write_config

from islr.config import load_config
from islr.errors import ProcessLost, UserError
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.evaluation.requests.rescore import evaluate_run
from islr.torchrun import exit_code
from islr.training import engine
from islr.training.checkpoint import read_checkpoint
from islr.training.distributed.heartbeat import Heartbeat, RankStatus
from islr.training.distributed.world import World
from islr.training.run_lock import LOCK
from islr.training.tracking import read_metrics
from pretrain.run import ENCODER

STEPS = 6
RUN = PRETRAIN | {
    "recipe": {"name": "posemae", "decoder_dim": 16, "decoder_depth": 1},
    "encoder": {"name": "pose_transformer_tiny", "arguments": {"frames": 8}},
    "data": {},
    "optim": PRETRAIN["optim"] | {"epochs": 1.5},
    "health": {"looks": 0},
}


def command(path: Path, fault: str = "", rank: int = 1, step: int = 0) -> None:
    """`islr pretrain`; one rank may be killed or slow at a step."""
    own = int(os.environ.get("RANK", 0))
    plain = engine.seed_step

    def faulty(seed: int, current: int, of: int) -> None:
        if own == rank and current == step and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if own == rank and current == step and fault == "late":
            time.sleep(600)
        plain(seed, current, of)

    engine.seed_step = faulty  # type: ignore[assignment]
    run_command(["pretrain", str(path)], path)


def said(path: Path, rank: int) -> list[str]:
    """Lines of a rank's log that are errors of ours."""
    return [line for line in log_of(path, rank).read_text().splitlines() if line.startswith("islr: ")]


def config(folder: Path, corpus: Path, name: str, **changes: Any) -> Path:
    return write_config(RUN, folder / f"{name}.yaml", corpus / "manifest.csv", folder / name, **changes)


def pids(processes: list[BaseProcess]) -> list[int]:
    return [process.pid or 0 for process in processes]


def test_a_killed_process_is_named_and_its_run_goes_on_at_any_size(mini_corpus: Path, tmp_path: Path) -> None:
    whole, cut, sizes = (config(tmp_path, mini_corpus, name) for name in ("whole", "cut", "sizes"))
    assert run_world(2, command, whole) == [0, 0]
    processes = start_world(2, command, cut, "killed", 1, 3)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [1, -signal.SIGKILL]
    (line,) = said(cut, 0)
    assert f"process 1 of 2 ({platform.node()}, pid {pids(processes)[1]}) has died, last heard of at st" in line
    assert line.endswith("; run the same command to go on from the last checkpoint")
    assert run_world(2, command, cut) == [0, 0]
    # The first process writes and holds the store; without it, the other says so.
    assert run_world(2, command, sizes, "killed", 0, 2) == [-signal.SIGKILL, 1]
    assert "process 0 of 2" in said(sizes, 1)[0]
    assert run_world(1, command, sizes) == [0]
    encoders = [load_file(tmp_path / name / ENCODER) for name in ("whole", "cut", "sizes")]
    losses = []
    for name in ("whole", "cut", "sizes"):
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
        losses.append([row["loss"] for row in rows])
    assert losses[1] == losses[0]
    assert all(torch.equal(value, encoders[1][key]) for key, value in encoders[0].items())
    # Another number of processes sums in another order.
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    saved = [read_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "sizes")]
    assert saved[0]["state"]["step"] == saved[1]["state"]["step"] == STEPS


def test_a_late_process_is_named_in_time(mini_corpus: Path, tmp_path: Path) -> None:
    path = config(tmp_path, mini_corpus, "late", run={"timeout_s": 2})
    processes = start_world(2, command, path, "late", 1, 2)
    processes[0].join(300)  # the late one sleeps for 600 s
    processes[1].kill()
    processes[1].join()
    assert processes[0].exitcode == 1
    (line,) = said(path, 0)
    assert f"process 1 of 2 ({platform.node()}, pid {pids(processes)[1]}) is still at step 2, reading clips" in line
    assert "waited for 2 s (run.timeout_s)" in line


def test_a_folder_in_use_is_refused_by_all_processes(mini_corpus: Path, tmp_path: Path) -> None:
    path = config(tmp_path, mini_corpus, "busy")
    (tmp_path / "busy").mkdir()
    holder = background(hold_run_folder, tmp_path / "busy")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "busy" / LOCK).exists():
        time.sleep(0.01)
    try:
        assert run_world(2, command, path) == [2, 2]
    finally:
        holder.kill()
        holder.join()
    assert len(said(path, 0)) == 1
    assert f"pid {holder.pid} on {platform.node()}" in said(path, 0)[0]
    assert said(path, 1) == []


def one_fails() -> None:
    """The second process has a reason of its own to end; the first is to know it. Ends with 0 when it does."""
    world, told = World("cpu"), ""
    try:
        with world.connected(60):
            assert world.any(world.rank == 1, False) == [True, False]
            assert world.average({"a": torch.tensor(float(world.rank)), "b": torch.tensor(3.0)}) == {"a": 0.5, "b": 3.0}
            if world.rank == 1:
                raise UserError("its own reason")
            world.barrier()
    except (ProcessLost, UserError) as error:
        told = f"{type(error).__name__}: {error}"
    mine, other = "UserError: its own reason", r"ProcessLost: process 1 of 2 \(.*\) failed: its own reason"
    assert told == mine if world.rank else re.fullmatch(other, told)


def test_the_others_know_why_one_failed() -> None:
    assert run_world(2, one_fails) == [0, 0]


class Board:
    """Quacks like a store, in this process."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.content[key] = value

    def get(self, key: str) -> str:
        return self.content[key]


def test_who_is_ahead_waits_and_who_is_silent_is_dead() -> None:
    board = Board()
    board.set("process/1", '{"host": "b", "pid": 5}')
    heartbeat = Heartbeat(board, 0, 2, timeout_s=100)
    now = time.monotonic()
    heartbeat.at("a")
    heartbeat.at("b")
    behind, level = RankStatus("b", 5, beat=1, place=1, what="a"), RankStatus("b", 5, beat=2, place=2, what="b")
    assert heartbeat.reason({1: behind}, now + 90) == ""
    assert "process 1 of 2 (b, pid 5) is still at a" in heartbeat.reason({1: behind}, now + 150)
    assert heartbeat.reason({1: level}, now + 160) == ""  # both at work in the same place, however long it takes
    assert heartbeat.reason({1: level}, now + 250) == ""
    assert "has sent no heartbeat for 100 s" in heartbeat.reason({1: level}, now + 270)
    assert heartbeat.reason({1: RankStatus("b", 5, beat=2, place=2, ended=True)}, now + 400) == ""
    heartbeat.end("why")
    assert '"failed": "why"' in board.content["process/0"]


@pytest.mark.parametrize(("codes", "code"), [([1, 2], 2), ([75, 75], 75), ([-9, 1], 1), ([75, 2], 2)])
def test_torchrun_s_exit_code_is_what_the_user_can_act_on(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code


def evaluate_together(folder: Path) -> None:
    """As `islr evaluate` under torchrun."""
    torch.set_num_threads(1)
    results = evaluate_run(folder)
    assert bool(results) == (os.environ["RANK"] == "0")


def test_evaluation_is_one_process_s_to_the_bit(mini_corpus: Path, tmp_path: Path) -> None:
    # Six test clips in batches of four: the second process has the smaller one.
    optim = {"epochs": 0.25, "warmup_epochs": 0, "batch_size": 4}
    path = write_config(FINETUNE, tmp_path / "f.yaml", mini_corpus / "manifest.csv", tmp_path / "f", optim=optim)
    run_finetune(load_config(FinetuneConfig, path))
    assert run_world(2, evaluate_together, tmp_path / "f") == [0, 0]
    alone = (tmp_path / "f" / "predictions.csv").read_bytes()
    assert alone.count(b"\n") == 7
    assert (tmp_path / "f" / "evaluation_test_1x1" / "predictions.csv").read_bytes() == alone
