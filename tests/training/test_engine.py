"""The training loop: interruption and resume, divergence, schedules, distributed runs, one writer."""

import hashlib
import os
import random
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.killed_runs import start_run
from support.process_groups import background, log_of, run_command, run_world
from support.tiny_runs import FINETUNE, PRETRAIN, write_config
from torch import nn

from islr.config import load_config
from islr.errors import Interrupted, RunFailed, UserError
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.files import file_sha256
from islr.models import create_model
from islr.models.weights import export_encoder
from islr.training.checkpoint import latest_checkpoint, read_checkpoint, save_checkpoint
from islr.training.tracking import read_metrics
from pretrain.maskfeat import MaskFeat
from pretrain.run import ENCODER, PretrainConfig, run_pretrain


def _config(folder: Path, corpus: Path, name: str, **changes: Any) -> PretrainConfig:
    path = write_config(PRETRAIN, folder / f"{name}.yaml", corpus / "manifest.csv", folder / name, **changes)
    return load_config(PretrainConfig, path)


@pytest.fixture(scope="module")
def reference(mini_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """Hash of the weights of an uninterrupted run, and its number of steps."""
    folder = tmp_path_factory.mktemp("reference")
    run_pretrain(_config(folder, mini_corpus, "whole"))
    rows = read_metrics(folder / "whole" / "metrics.jsonl")
    return _weights(folder / "whole"), rows[-1]["step"]


def _weights(run: Path) -> str:
    tensors = load_file(run / ENCODER)
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _wait_for_step(process: BaseProcess, run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        rows = read_metrics(run / "metrics.jsonl")
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.002)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_runs_end_with_the_same_bits(
    workers: int, mini_corpus: Path, tmp_path: Path, reference: tuple[str, int]
) -> None:
    sha, steps = reference
    dice = random.Random(workers)
    killed = 0
    for step in sorted(dice.sample(range(1, steps - 2), 2)):
        # Another number of workers at every launch.
        changes = {"data": PRETRAIN["data"] | {"workers": workers + killed}}
        process = start_run(_config(tmp_path, mini_corpus, "cut", **changes))
        _wait_for_step(process, tmp_path / "cut", step)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed, "the runs ended before they could be killed"
    run_pretrain(_config(tmp_path, mini_corpus, "cut"))
    assert _weights(tmp_path / "cut") == sha
    rows = read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, steps + 1))
    looks = [row["step"] for row in rows if row["kind"] == "val"]
    assert looks == sorted(set(looks))
    assert {0, steps} <= set(looks)


def test_sigterm_saves_within_a_step(mini_corpus: Path, tmp_path: Path, reference: tuple[str, int]) -> None:
    config = _config(tmp_path, mini_corpus, "term", run=PRETRAIN["run"] | {"checkpoint_every": None})
    path = tmp_path / "term.yaml"
    process = background(run_command, ["pretrain", str(path)], path)
    _wait_for_step(process, tmp_path / "term", 0)
    process.terminate()
    process.join()
    assert process.exitcode == 75
    assert "run the same command to go on" in log_of(path, 0).read_text()
    done = read_metrics(tmp_path / "term" / "metrics.jsonl")[-1]["step"]
    saved = latest_checkpoint(tmp_path / "term")
    assert saved is not None
    assert saved["state"]["step"] == done
    run_pretrain(config)
    assert _weights(tmp_path / "term") == reference[0]


def test_damaged_checkpoint_falls_back(
    mini_corpus: Path, tmp_path: Path, reference: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path, mini_corpus, "cut", run=PRETRAIN["run"] | {"checkpoint_every": 1})
    process = start_run(config)
    _wait_for_step(process, tmp_path / "cut", 5)
    process.kill()
    process.join()
    last = tmp_path / "cut" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert latest_checkpoint(tmp_path / "cut") is not None
    assert "going on from previous.ckpt" in caplog.text
    run_pretrain(config)
    assert _weights(tmp_path / "cut") == reference[0]


def test_checkpoints_are_whole_or_refused(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, {"step": 1, "w": torch.ones(3)})
    save_checkpoint(tmp_path, {"step": 2, "w": torch.zeros(3)})
    assert read_checkpoint(tmp_path / "last.ckpt")["step"] == 2
    assert read_checkpoint(tmp_path / "previous.ckpt")["step"] == 1
    content = bytearray((tmp_path / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="does not match its sha256"):
        read_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="cut short"):
        latest_checkpoint(tmp_path)


def test_pickled_checkpoint_is_never_opened(tmp_path: Path) -> None:
    import pickle

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "canary",))

    body = pickle.dumps({"module": Canary()})
    footer = b"\nsha256:" + hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "last.ckpt").write_bytes(body + footer)
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "canary").exists()


def test_second_launch_in_a_folder_is_refused(mini_corpus: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, mini_corpus, "busy", optim=PRETRAIN["optim"] | {"epochs": 500})
    process = start_run(config)
    _wait_for_step(process, tmp_path / "busy", 1)
    try:
        with pytest.raises(UserError, match="in use by another process"):
            run_pretrain(config)
    finally:
        process.kill()
        process.join()
    with pytest.raises(UserError, match="another configuration"):
        run_pretrain(_config(tmp_path, mini_corpus, "busy", optim=PRETRAIN["optim"] | {"lr": 0.5}))


def test_divergence_stops_with_the_clips(mini_corpus: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def diverging(self: nn.Module, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        weight = next(self.encoder.parameters())  # type: ignore[union-attr, operator]
        return {"loss": (weight * float("nan")).sum()}

    monkeypatch.setattr(MaskFeat, "forward", diverging)
    with pytest.raises(RunFailed, match=r"step 0: loss nan.*clips of the step: ([\w-]+, ){3}[\w-]+$"):
        run_pretrain(_config(tmp_path, mini_corpus, "nan"))
    assert not (tmp_path / "nan" / "last.ckpt").exists()
    assert (tmp_path / "nan" / "error.txt").read_text().startswith("step 0: loss nan")


def test_a_failed_run_writes_why_until_it_goes_on(mini_corpus: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config, error = _config(tmp_path, mini_corpus, "failed"), tmp_path / "failed" / "error.txt"

    def fail(*_: Any) -> None:
        raise MemoryError("no room\nfor this")

    with monkeypatch.context() as patched:
        patched.setattr(MaskFeat, "forward", fail)
        with pytest.raises(MemoryError):
            run_pretrain(config)
    assert error.read_text() == "MemoryError: no room for this\n"
    run_pretrain(config)
    assert not error.exists()


def test_too_many_broken_clips_stop_the_run(mini_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    subprocess.run(["cp", "-r", str(mini_corpus), str(corpus)], check=True)
    from islr.data.manifest import Manifest

    clip = Manifest.load(corpus / "manifest.csv").select("train").clips[0]
    (corpus / clip.path).write_bytes((corpus / clip.path).read_bytes()[:200])
    with pytest.raises(UserError, match=rf"1 of \d+ training clips could not be read.*{clip.clip_id}"):
        run_pretrain(_config(tmp_path, corpus, "broken"))
    allowed = PRETRAIN["data"] | {"max_bad": 0.2}
    run_pretrain(_config(tmp_path, corpus, "allowed", data=allowed))
    saved = latest_checkpoint(tmp_path / "allowed")
    assert saved is not None
    assert len(saved["state"]["failed"]) == 1


def test_linear_fine_tuning_leaves_the_encoder_as_it_was(mini_corpus: Path, tmp_path: Path) -> None:
    arguments = {"frames": 4, "size": 32}
    export_encoder(create_model("r3d_tiny", **arguments), tmp_path / "encoder.safetensors", {})
    encoder = {"name": "r3d_tiny", "arguments": arguments, "weights": str(tmp_path / "encoder.safetensors")}
    path = write_config(
        FINETUNE,
        tmp_path / "linear.yaml",
        mini_corpus / "manifest.csv",
        tmp_path / "linear",
        mode="linear",
        encoder=encoder,
    )
    run_finetune(load_config(FinetuneConfig, path))
    tuned = load_file(tmp_path / "linear" / "classifier.safetensors")
    for name, value in load_file(tmp_path / "encoder.safetensors").items():
        assert torch.equal(tuned[f"encoder.{name}"], value), name


def test_stopping_at_the_end_of_an_epoch_keeps_its_evaluation(mini_corpus: Path, tmp_path: Path) -> None:
    def config(name: str) -> FinetuneConfig:
        path = write_config(FINETUNE, tmp_path / f"{name}.yaml", mini_corpus / "manifest.csv", tmp_path / name)
        return load_config(FinetuneConfig, path)

    whole = {result.metric: result.value for result in run_finetune(config("whole")) if not result.group}
    from islr.training import engine

    calls = {"n": 0}
    plain = engine.seed_step

    def interrupting(*args: int) -> None:
        calls["n"] += 1
        if calls["n"] == 3:  # the last step of the first epoch
            os.kill(os.getpid(), signal.SIGTERM)
        plain(*args)

    engine.seed_step = interrupting
    try:
        with pytest.raises(Interrupted):
            run_finetune(config("cut"))
    finally:
        engine.seed_step = plain
    again = {result.metric: result.value for result in run_finetune(config("cut")) if not result.group}
    assert again == whole
    rows = [row["step"] for row in read_metrics(tmp_path / "cut" / "metrics.jsonl") if row["kind"] == "val"]
    assert rows == sorted(set(rows))
    assert len(rows) == 2
    files = [tmp_path / name / "classifier.safetensors" for name in ("whole", "cut")]
    assert file_sha256(files[0]) == file_sha256(files[1])


def test_two_processes_score_every_clip_once(mini_corpus: Path, tmp_path: Path) -> None:
    alone = write_config(FINETUNE, tmp_path / "alone.yaml", mini_corpus / "manifest.csv", tmp_path / "alone")
    pair = write_config(FINETUNE, tmp_path / "pair.yaml", mini_corpus / "manifest.csv", tmp_path / "pair")
    run_finetune(load_config(FinetuneConfig, alone))
    assert run_world(2, run_command, ["finetune", str(pair)], pair) == [0, 0], log_of(pair, 0).read_text()
    ids = {}
    for name in ("alone", "pair"):
        lines = (tmp_path / name / "predictions.csv").read_text().splitlines()[1:]
        ids[name] = [line.split(",")[0] for line in lines]
    assert ids["alone"] == ids["pair"]
    assert len(set(ids["pair"])) == len(ids["pair"])
    first = [
        next(row for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["kind"] == "train")
        for name in ("alone", "pair")
    ]
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-3)
