"""`islr check`: each check passes on what works, and fails on something that was broken on purpose."""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recipe_runs import smallest_config
from support.tiny_runs import FINETUNE, PRETRAIN, write_config
from torch import nn

from islr.checks import goal
from islr.checks import reload as reload_check
from islr.checks import speed as speed_check
from islr.checks.facts import facts
from islr.checks.finetune import finetune_subject
from islr.checks.overfit import one_batch, overfit
from islr.checks.shuffled import shuffled
from islr.checks.speed import speed
from islr.checks.subject import CheckLimits, CheckOutcome, Subject
from islr.cli import run
from islr.config import load_config
from islr.data.manifest import Clip
from islr.errors import UserError
from islr.evaluation.finetune import FinetuneConfig
from islr.training.distributed.world import World
from pretrain import RECIPES, dpc, svt
from pretrain.check import pretrain_subject
from pretrain.targets.best_constant import best_constant

CPU = {"device": "cpu"}
RATE = {"lr": 6e-3, "warmup_epochs": 0}
QUICK = CheckLimits(steps=60, seconds=20, clips=4)


@pytest.fixture
def finetuning(mini_corpus: Path, tmp_path: Path) -> Subject:
    path = write_config(FINETUNE, tmp_path / "f.yaml", mini_corpus / "manifest.csv", tmp_path / "run", run=CPU)
    changes = ["optim.lr=6e-3", "video.scale=[0.95,1]", "classification.head_norm=batch"]
    return finetune_subject(load_config(FinetuneConfig, path, changes))


def _pretraining(name: str, corpus: Path, folder: Path) -> Subject:
    return pretrain_subject(smallest_config(name, corpus / "manifest.csv", folder / "run", run=CPU, optim=RATE))


def _overfit(subject: Subject, limits: CheckLimits = QUICK, spoil: Callable[[nn.Module], object] = id) -> CheckOutcome:
    world = World("cpu")
    module = subject.build(True)
    batch = one_batch(subject, limits.clips, world)
    spoil(module)
    return overfit(subject, module, batch, world, limits)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_learns_one_batch_and_not_without_its_gradient(
    name: str, mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (goal, dpc):
        monkeypatch.setattr(module, "SHARE", 0.75)  # half takes a minute for all
    monkeypatch.setattr(svt, "GOAL_SHARE", 0.9)
    subject = _pretraining(name, mini_corpus, tmp_path)
    learned = _overfit(subject, CheckLimits(steps=200, seconds=60, clips=3))
    assert learned.state == "pass", learned.message
    assert learned.values["steps"] > 0, "the goal is not met by a fresh module"
    still = dataclasses.replace(subject, optim=subject.optim.model_copy(update={"lr": 1e-9, "min_lr": 0.0}))
    assert _overfit(still, CheckLimits(steps=2, clips=4)).state == "fail"


def test_the_best_constant_is_the_mean_of_the_targets(mini_corpus: Path, tmp_path: Path) -> None:
    subject = _pretraining("maskfeat", mini_corpus, tmp_path)
    recipe: Any = subject.build(True)
    batch = one_batch(subject, 4, World("cpu"))
    (target,) = recipe.targets(batch["clip"], batch["mask"])
    assert best_constant(recipe, batch, 1) == pytest.approx(float(target.var(dim=0, correction=0).mean()), rel=1e-3)
    assert recipe.predict.__func__ is type(recipe).predict, "the recipe is as it was"


def test_a_loss_that_is_not_finite_fails(mini_corpus: Path, tmp_path: Path) -> None:
    outcome = _overfit(
        _pretraining("maskfeat", mini_corpus, tmp_path), spoil=lambda module: module.mask_token.data.fill_(torch.nan)
    )
    assert outcome.state == "fail"
    assert "the loss is nan at step 0" in outcome.message


def test_the_limit_of_time_is_reported(finetuning: Subject) -> None:
    outcome = _overfit(finetuning, CheckLimits(steps=10_000, seconds=0.0, clips=4))
    assert outcome.state == "fail"
    assert "stopped after 0 s" in outcome.message


def _shuffled(subject: Subject, **changes: Any) -> CheckOutcome:
    assert subject.labelled is not None
    labelled = dataclasses.replace(subject.labelled, **changes)
    return shuffled(dataclasses.replace(subject, labelled=labelled), World("cpu"), CheckLimits(steps=100, seconds=60))


def test_shuffled_labels_score_at_chance_unless_something_leaks(mini_corpus: Path, tmp_path: Path) -> None:
    poses = {"encoder": {"name": "pose_transformer_tiny", "arguments": {"frames": 8}}, "run": CPU}
    base = {key: value for key, value in FINETUNE.items() if key != "encoder"} | {"data": {}}
    path = write_config(base, tmp_path / "f.yaml", mini_corpus / "manifest.csv", tmp_path / "run", **poses)
    changes = ["optim.lr=6e-3", "pose.crop=[0.95,1]", "classification.head_norm=batch"]
    finetuning = finetune_subject(load_config(FinetuneConfig, path, changes))
    labelled = finetuning.labelled
    assert labelled is not None
    both = [*labelled.train, *labelled.held_out]
    held_out = labelled.train.replace(both[::2])
    train = labelled.train.replace(both[1::2])
    clean = _shuffled(finetuning, train=train, held_out=held_out)
    assert clean.state == "pass", clean.message
    assert clean.values["train_accuracy"] > 0.7
    # The same clips under other names on both sides: a model that memorised them classifies them correctly.
    copies = [dataclasses.replace(clip, clip_id=f"copy of {clip.clip_id}") for clip in train]
    leaked = _shuffled(finetuning, train=train, held_out=train.replace(copies))
    assert leaked.state == "fail", leaked.message
    assert leaked.values["low"] > leaked.values["chance"]


def test_too_few_held_out_clips_skip_the_control(finetuning: Subject) -> None:
    assert finetuning.labelled is not None
    few = finetuning.labelled.held_out.replace(finetuning.labelled.held_out.clips[:3])
    assert _shuffled(finetuning, held_out=few).state == "skip"


def test_a_reloaded_model_gives_the_same_bits_unless_its_file_lacks_something(
    finetuning: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_check, "_in_new_process", _here)  # tests of plug-ins start a real one
    world, module = World("cpu"), finetuning.build(True)
    assert reload_check.reload(finetuning, module, 3, world).state == "pass"

    def save_before(module: nn.Module, path: Path) -> None:
        finetuning.save(module, path)
        with torch.no_grad():
            finetuning.exported(module).head.bias[0] += 1e-6

    late = reload_check.reload(dataclasses.replace(finetuning, save=save_before), module, 3, world)
    assert late.state == "fail"
    assert 0 < late.values["largest_difference"] < 1e-5


def _here(folder: Path, device: torch.device, threads: int) -> str:
    try:
        reload_check.load_and_compute(folder, str(device))
    except UserError as error:
        return str(error)
    return ""


def test_a_file_that_cannot_be_loaded_is_reported(finetuning: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_check, "_in_new_process", _here)
    broken = dataclasses.replace(finetuning, save=lambda module, path: path.write_bytes(b"nothing"))
    outcome = reload_check.reload(broken, finetuning.build(True), 2, World("cpu"))
    assert outcome.state == "fail"
    assert "not a safetensors file" in outcome.message


def test_slow_data_and_little_memory_fail(finetuning: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    world, limits = World("cpu"), CheckLimits(seconds=2)
    throughput, memory = speed(finetuning, finetuning.build(False), world, limits)
    assert throughput.values["steps"] == 2 * (len(finetuning.train) // 6)
    assert throughput.values["data_clips_per_s"] > 0
    assert memory.state == "pass"
    assert memory.values["saved_bytes"] > 0
    assert memory.values["cache_bytes"] > 0

    def slow(source: Any, rng: Any) -> dict[str, Any]:
        time.sleep(0.2)
        return finetuning.view(source, rng)

    monkeypatch.setattr(speed_check, "host_memory", lambda: 2**20)
    slowed = dataclasses.replace(finetuning, view=slow)
    throughput, memory = speed(slowed, finetuning.build(False), world, limits)
    assert throughput.state == "fail"
    assert throughput.values["data_wait"] > 0.5
    assert memory.state == "fail"


def test_a_step_that_does_not_fit_fails(finetuning: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed_check, "clip_gradients", full)
    throughput, memory = speed(finetuning, finetuning.build(False), World("cpu"), CheckLimits(seconds=1))
    assert (throughput.state, memory.state) == ("skip", "fail")
    assert "does not fit" in memory.message


def _with(subject: Subject, clips: list[Clip]) -> Subject:
    return dataclasses.replace(subject, train=subject.train.replace(clips))


@pytest.mark.parametrize("broken", ["nothing", "unreadable", "short", "untaught"])
def test_facts_of_the_data(finetuning: Subject, tmp_path: Path, broken: str) -> None:
    subject, words = finetuning, "0 shorter than the 4 frames"
    if broken == "unreadable":
        lost = dataclasses.replace(subject.train.clips[0], path="videos/none.mp4")
        subject, words = (
            dataclasses.replace(subject, train=subject.train.replace([lost, *subject.train.clips[1:]])),
            lost.clip_id,
        )
    elif broken == "short":
        subject, words = dataclasses.replace(subject, span=lambda clip: 1000.0), "most clips are shorter"
    elif broken == "untaught":
        taught = [clip for clip in subject.train if clip.label != 2]
        subject, words = (
            dataclasses.replace(subject, train=subject.train.replace(taught)),
            "1 scored classes have no training clip",
        )
    outcome = facts(subject, QUICK)
    assert outcome.state == ("pass" if broken == "nothing" else "fail")
    assert re.search(words, outcome.message)


def test_the_command(mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    path = write_config(PRETRAIN, tmp_path / "p.yaml", mini_corpus / "manifest.csv", out, run=CPU)
    found = tmp_path / "found.json"
    command = ["check", str(path), "optim.lr=6e-3", "--seconds", "90", "--clips", "3", "--json", str(found)]
    assert run([*command, "--only", "data", "--only", "overfit", "--only", "shuffled"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed[1:]] == ["data", "overfit", "shuffled"]
    checks = json.loads(found.read_text())["checks"]
    assert checks["overfit"]["end"] < checks["overfit"]["limit"] < checks["overfit"]["start"]
    assert checks["shuffled"]["state"] == "skip"
    assert run([*command, "--only", "overfit", "--steps", "1"]) == 1
    printed = capsys.readouterr()
    assert "FAIL  overfit" in printed.out
    assert printed.err.strip().endswith("1 of 1 checks failed: overfit")
    assert run([*command, "--only", "nothing"]) == 2
    assert run([*command, "--processes", "3"]) == 2
    assert run(["check", "smoke/probe.yaml"]) == 2
    assert run(["check", str(path), "encoder.arguments.size=33"]) == 2
    assert not out.exists(), "nothing is written in the run folder"
