"""wandb in earnest: what a run leaves offline is read back; nothing depends on it being there."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from support.killed_runs import killed_at
from support.paths import CHECKOUT
from support.tiny_runs import FINETUNE, PRETRAIN, write_config
from support.wandb_store import Stored

from islr.config import load_config, validate
from islr.config_files import read_tree
from islr.data.manifest import Manifest
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.training.tracking import read_metrics
from islr.training.wandb_run import ID_FILE, WandbRun, strip
from pretrain.run import ENCODER, PretrainConfig, run_pretrain

SHORT = {"optim": {"epochs": 1, "warmup_epochs": 0}, "health": {"looks": 0}}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it: nothing about wandb in the environment."""
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def _config(corpus: Path, folder: Path, mode: str = "offline", **changes: Any) -> PretrainConfig:
    changes = {"run": {"wandb": mode}, "health": {"looks": 2, "clips": 8}} | changes
    path = write_config(PRETRAIN, folder / "p.yaml", corpus / "manifest.csv", folder / "run", **changes)
    return load_config(PretrainConfig, path)


@pytest.mark.usefixtures("alone")
def test_a_killed_run_is_one_wandb_run_with_config_history_and_pictures(mini_corpus: Path, tmp_path: Path) -> None:
    config = _config(mini_corpus, tmp_path, tags={"method": "maskfeat", "regime": "sign"})
    assert killed_at(config, 4)
    name = (tmp_path / "run" / ID_FILE).read_text().strip()
    run_pretrain(config)
    stored = Stored(tmp_path / "run")
    assert len(stored.folders) == 2
    run = stored.runs[-1]
    assert run.run_id == name
    assert all(folder.name.endswith(name) for folder in stored.folders)
    assert (run.run_group, run.job_type, run.display_name) == ("maskfeat · sign", "pretrain", "tiny")
    assert set(run.tags) == {"method=maskfeat", "regime=sign", "seed=0"}
    assert {key: stored.config[key] for key in ("recipe", "optim")} == {
        key: config.model_dump(mode="json")[key] for key in ("recipe", "optim")
    }
    rows = {row["step"]: row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row}
    logged = {row["_step"]: row["train/loss"] for row in stored.history if "train/loss" in row}
    assert logged == rows
    assert any("val/feature_rank" in row for row in stored.history)
    shown = {key.split(".")[0] for row in stored.history for key in row if key.startswith("pictures/")}
    assert shown == {"pictures/input", "pictures/masked", "pictures/target HOG", "pictures/predicted HOG"}
    pictures = stored.files("predicted HOG_*.png")
    assert len(pictures) == 2, "one at each look"
    drawn = [cv2.imread(str(path)) for path in pictures]
    assert drawn[0].shape[0] >= 256
    assert drawn[0].shape[1] > 4 * 256
    assert not np.array_equal(drawn[0], drawn[1]), "the encoder has learned between the looks"


@pytest.mark.usefixtures("alone")
def test_a_fine_tuned_model_leaves_its_tables(mini_corpus: Path, tmp_path: Path) -> None:
    path = write_config(
        FINETUNE, tmp_path / "f.yaml", mini_corpus / "manifest.csv", tmp_path / "run", run={"wandb": "offline"}
    )
    results = run_finetune(load_config(FinetuneConfig, path, ["optim.epochs=1", "optim.warmup_epochs=0"]))
    stored = Stored(tmp_path / "run")
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in stored.files("*.table.json")}
    assert set(tables) == {"results", "classes"}
    top1 = next(result for result in results if result.metric == "top1" and not result.group)
    assert stored.summary["test/top1"] == pytest.approx(top1.value)
    columns = tables["results"]["columns"]
    values = [dict(zip(columns, row, strict=True)) for row in tables["results"]["data"]]
    assert len(values) == len(results)
    assert values[results.index(top1)]["value"] == pytest.approx(top1.value)
    classes = tables["classes"]["data"]
    assert sum(row[1] for row in classes) == top1.n
    assert sum(row[1] * row[2] for row in classes) == pytest.approx(top1.value * top1.n)
    truth = Counter(clip.label for clip in Manifest.load(mini_corpus / "manifest.csv").select("test"))
    names = Manifest.load(mini_corpus / "manifest.csv").classes
    assert {row[0]: row[1] for row in classes} == {names[label]: count for label, count in truth.items()}


@pytest.mark.parametrize("broken", ["absent", "init", "log", "finish"])
def test_a_run_does_without(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no service")

    def fine(*_: Any, **__: Any) -> None:
        return None

    run = SimpleNamespace(log=fail if broken == "log" else fine, finish=fail if broken == "finish" else fine)
    module = SimpleNamespace(
        init=fail if broken == "init" else lambda **_: run, Settings=lambda **_: None, Image=lambda _: None
    )
    monkeypatch.setitem(sys.modules, "wandb", None if broken == "absent" else module)
    run_pretrain(_config(mini_corpus, tmp_path, **SHORT))
    assert (tmp_path / "run" / ENCODER).is_file()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert caplog.text.count("wandb is not used") == 1


def test_disabled_never_asks_for_wandb(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_pretrain(_config(mini_corpus, tmp_path, mode="disabled", **SHORT))
    assert "wandb" not in caplog.text
    assert not (tmp_path / "run" / ID_FILE).exists()


def test_online_without_network_is_kept_offline(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        asked.append(options)
        if options["mode"] == "online":
            raise TimeoutError("no route")
        return SimpleNamespace(finish=lambda **_: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **_: None))
    with WandbRun(tmp_path, "online", _config(mini_corpus, tmp_path, "online")) as wandb_run:
        assert wandb_run.active
    assert [options["mode"] for options in asked] == ["online", "offline"]
    assert [options["resume"] for options in asked] == ["allow", None]
    assert len({options["id"] for options in asked}) == 1
    assert "kept offline: no route" in caplog.text


def test_in_a_sweep_the_agent_names_the_run(mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    module = SimpleNamespace(init=lambda **options: asked.append(options), Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    WandbRun(tmp_path, "online", _config(mini_corpus, tmp_path, "online"))
    assert (asked[0]["id"], asked[0]["project"], asked[0]["resume"]) == (None, None, None)


def test_pictures_side_by_side() -> None:
    panel = np.stack([np.full((6, 5, 3), value, np.uint8) for value in (10, 20)])
    image = strip(panel)
    assert image.shape == (6, 5 + 4 + 5, 3)
    assert image[0, :, 0].tolist() == [10] * 5 + [255] * 4 + [20] * 5


SWEEPS = sorted((CHECKOUT / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_parameter_of_a_sweep_is_a_key_of_the_schema(path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").startswith("# ")
    for which in ("first", "last"):
        chosen = {}
        for key, space in sweep["parameters"].items():
            ends = space["values"] if "values" in space else [space["min"], space["max"]]
            chosen[key] = ends[0] if which == "first" else ends[-1]
        given = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
        macros = {"${program}": ["echo"], "${args_no_hyphens}": given["args_no_hyphens"]}
        command = [word for part in sweep["command"] for word in macros.get(part, [part])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"WANDB_RUN_ID": "r1"})
        task, config, *overrides = done.stdout.split()
        assert task == "pretrain"
        resolved = validate(PretrainConfig, read_tree(config, overrides), config).model_dump()
        assert resolved["run"]["out"] == "runs/sweep/r1"
        for key, value in chosen.items():
            *groups, leaf = key.split(".")
            node = resolved
            for group in groups:
                node = node[group]
            assert node[leaf] == pytest.approx(value)
