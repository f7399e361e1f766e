"""The training loop: interruption and resume, divergence, schedules, distributed runs, one writer."""

import hashlib
import json
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

from islr.config import load_config, validate
from islr.errors import Interrupted, RunFailed, UserError
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.files import file_sha256
from islr.models import create_model
from islr.models.weights import export_encoder
from islr.training.checkpoint import latest_checkpoint, read_checkpoint, save_checkpoint
from islr.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    schedule_description,
    set_weight_decay,
)
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


def test_schedule_warms_up_and_decays() -> None:
    config = OptimConfig(lr=2.0, min_lr=0.2, start_lr=0.1, epochs=10, warmup_epochs=2, batch_size=4)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 1) == pytest.approx(1.05)
    assert learning_rate(config, 2) == pytest.approx(2.0)
    assert learning_rate(config, 6) == pytest.approx(1.1)
    assert learning_rate(config, 10) == pytest.approx(0.2)
    scaled = config.model_copy(update={"lr_batch": 2})
    assert learning_rate(scaled, 6) == pytest.approx(2.2)
    assert schedule_description(config, 1) == "batch 4, learning rate 2, 10 epochs"
    assert (
        schedule_description(scaled, 2) == "batch 4 = 2 processes x 1 parts x 2, learning rate 4 = 2 x 4 / 2, 10 epochs"
    )


@pytest.mark.oracle
@pytest.mark.parametrize("stage", ["ft", "pt"])
def test_schedule_is_the_reference(oracles: Path, stage: str) -> None:
    path = oracles / "video" / "optim.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    recorded = json.loads(path.read_text())[f"slowfast_{stage}_S_lr"]
    # The published configurations (MViTv2-S, one shard): epochs, warm-up, base learning rate.
    epochs, warmup, base = {"ft": (100, 20, 6e-4), "pt": (300, 10, 1e-4)}[stage]
    config = OptimConfig(lr=base, epochs=epochs, warmup_epochs=warmup, batch_size=1)
    for epoch, rate in recorded.items():
        assert learning_rate(config, float(epoch)) == pytest.approx(rate, rel=1e-6), epoch


def test_learning_rate_falls_in_steps() -> None:
    config = OptimConfig(lr=1.0, lr_steps=(4, 6), epochs=8, warmup_epochs=2, start_lr=0.5, batch_size=4, lr_batch=2)
    rates = [learning_rate(config, epoch) for epoch in (0, 1, 2, 3.99, 4, 5.9, 6, 8)]
    assert rates == pytest.approx([1.0, 1.5, 2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
    for steps in ((1, 4), (6, 4), (4, 8)):
        with pytest.raises(UserError, match="lr_steps must rise"):
            validate(OptimConfig, config.model_dump() | {"lr_steps": steps}, "here")


def test_sgd_steps_with_momentum() -> None:
    """Two steps on a constant gradient, by hand: v = m v + g, w -= lr (g + m v) with Nesterov's step, else lr v."""
    for nesterov, expected in ((False, 1 + 1.5), (True, 1.5 + 1.75)):
        optim = OptimConfig(
            optimizer="sgd", momentum=0.5, nesterov=nesterov, lr=0.1, epochs=1, batch_size=1, weight_decay=0
        )
        layer = nn.Linear(1, 1, bias=False)
        start = layer.weight.item()
        optimizer = build_optimizer(optim, parameter_groups(layer, optim))
        for _ in range(2):
            layer.weight.grad = torch.ones(1, 1)
            optimizer.step()
        assert start - layer.weight.item() == pytest.approx(0.1 * expected, rel=1e-5)
    with pytest.raises(UserError, match="nesterov is for optimizer sgd"):
        validate(OptimConfig, {"lr": 1, "epochs": 1, "batch_size": 1, "nesterov": True}, "here")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"optimizer": "sgd", "betas": (0.9, 0.95)}, "betas"),
        ({"optimizer": "sgd", "eps": 1e-6}, "eps"),
        ({"momentum": 0.5}, "momentum"),
        ({"lr_steps": (2, 3), "min_lr": 0.0}, "min_lr"),
        ({"clip_mode": "parameter"}, "clip_mode"),
    ],
)
def test_an_option_that_cannot_act_is_refused(options: dict[str, Any], key: str) -> None:
    required = {"lr": 1, "epochs": 4, "batch_size": 1}
    with pytest.raises(UserError, match=f"{key} acts only with"):
        validate(OptimConfig, required | options, "here")
    defaults = OptimConfig.model_validate(required | {"optimizer": "sgd", "lr_steps": (2, 3)}).model_dump()
    assert validate(OptimConfig, defaults, "a run's config.yaml").lr_steps == (2, 3)


def test_groups_decay_weights_by_layer() -> None:
    encoder = create_model("mvit_tiny")
    optim = OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(encoder, optim, encoder.layer_of, encoder.num_layers)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in encoder.named_parameters())
    of = {name: group for group in groups for name in group["names"]}
    deepest = [name for name in names if encoder.layer_of(name) == 0]
    assert deepest
    assert all(of[name]["lr_scale"] == 0.5 ** (encoder.num_layers - 1) for name in deepest)
    for name, parameter in encoder.named_parameters():
        token = name.endswith("token")
        assert of[name]["weight_decay"] == (0.3 if parameter.ndim > 1 or token else 0.0), name


@pytest.mark.parametrize(("mode", "expected"), [("global", [0.6, 0.8]), ("parameter", [1.0, 1.0])])
def test_gradients_are_clipped_together_or_one_by_one(mode: str, expected: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optim = OptimConfig(lr=1.0, epochs=1, batch_size=1, clip_grad=1.0, clip_mode=mode)
    assert clip_gradients(parameters, optim).item() == pytest.approx(5.0)
    found = [parameter.grad.norm().item() for parameter in parameters[:2] if parameter.grad is not None]
    assert found == pytest.approx(expected, rel=1e-5)
    assert parameters[2].grad is None
    unlimited = optim.model_copy(update={"clip_grad": None})
    assert clip_gradients(parameters, unlimited).item() == pytest.approx(sum(x * x for x in expected) ** 0.5, rel=1e-5)
    assert [parameter.grad.norm().item() for parameter in parameters[:2]] == found  # type: ignore[union-attr]


def test_weight_decay_moves_to_its_end() -> None:
    layer = nn.Linear(2, 2)
    plain = OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=0.1)
    moving = plain.model_copy(update={"weight_decay_end": 0.5})
    for optim, expected in ((plain, [0.1, 0.1, 0.1]), (moving, [0.1, 0.3, 0.5])):
        optimizer = build_optimizer(optim, parameter_groups(layer, optim))
        for progress, value in zip((0.0, 0.5, 1.0), expected, strict=True):
            set_weight_decay(optimizer, optim, progress)
            decay = {tuple(group["params"][0].shape): group["weight_decay"] for group in optimizer.param_groups}
            assert decay[2, 2] == pytest.approx(value)
            assert decay[2,] == 0
