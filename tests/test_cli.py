"""The command line as a user meets it: exit codes and one clear line for whatever is wrong."""

import csv
import dataclasses
import json
import os
import pickle
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny_runs import FINETUNE, PRETRAIN, write_config

from islr.cli import run
from islr.config_files import shipped_configs
from islr.data.manifest import Manifest
from islr.evaluation.results import load_results
from islr.models.weights import read_metadata


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    last = text.splitlines()[-1]
    assert last.startswith("islr: ")
    return last


@pytest.fixture
def broken(tmp_path: Path, mini_corpus: Path) -> Path:
    """A folder with every kind of wrong input."""
    (tmp_path / "broken.json").write_text('[{"gloss": "a", "instances": [')
    (tmp_path / "other.json").write_text('{"a": 1}')
    videos = tmp_path / "videos"
    videos.mkdir()
    good = next((mini_corpus / "videos").glob("*.mp4")).read_bytes()
    (videos / "zero.mp4").write_bytes(b"")
    (videos / "cut.mp4").write_bytes(good[: len(good) // 2])
    (videos / "fine.mp4").write_bytes(good)
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "empty.csv").write_text("")
    header = (mini_corpus / "manifest.csv").read_text().splitlines()[0]
    (tmp_path / "no_clips.csv").write_text(header + "\n")
    with (tmp_path / "pickle.safetensors").open("wb") as file:
        pickle.dump({"weights": os.getcwd}, file)
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    write_config(PRETRAIN, tmp_path / "pretrain.yaml", mini_corpus / "manifest.csv", tmp_path / "run")
    write_config(FINETUNE, tmp_path / "finetune.yaml", mini_corpus / "manifest.csv", tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data wlasl --json {0}/none.json --videos {0}/videos --out {0}/m.csv", "none.json"),
        ("data wlasl --json {0}/broken.json --videos {0}/videos --out {0}/m.csv", "broken.json.*json"),
        ("data wlasl --json {0}/other.json --videos {0}/videos --out {0}/m.csv", "other.json"),
        ("data folder {0}/nowhere --out {0}/m.csv", "nowhere"),
        ("data folder {0}/empty_folder --out {0}/m.csv", "empty_folder"),
        ("data audit {0}/none.csv", "none.csv: no such manifest"),
        ("data audit {0}/empty.csv", "empty.csv"),
        ("data audit {0}/no_clips.csv", "no_clips.csv: the manifest has no clips"),
        ("pretrain {0}/none.yaml", "none.yaml does not exist"),
        ("pretrain {0}/pretrain.yaml optim.epoch=1", "unknown key 'optim.epoch'; did you mean 'epochs'"),
        ("pretrain {0}/pretrain.yaml encoder.name=mvit_tiney", "unknown model 'mvit_tiney'; did you mean 'mvit_tiny'"),
        ("pretrain {0}/pretrain.yaml encoder.arguments.depht=3", "no argument 'depht'"),
        ("pretrain {0}/pretrain.yaml encoder.arguments.size=33", "size=33 does not fit the strides"),
        ("pretrain {0}/pretrain.yaml 'recipe={{name: posemae}}'", "posemae trains pose encoders, mvit_tiny takes"),
        ("pretrain {0}/pretrain.yaml data.manifest={0}/none.csv", "none.csv: no such manifest"),
        ("pretrain {0}/pretrain.yaml data.manifest={0}/no_clips.csv", "the manifest has no clips"),
        ("pretrain {0}/pretrain.yaml optim.batch_size=4000", "batch_size is 4000 and the training clips are"),
        ("pretrain {0}/pretrain.yaml run.device=cuda", "no CUDA device"),
        ("finetune {0}/finetune.yaml encoder.weights={0}/pickle.safetensors", "is a pickle.*only safetensors"),
        ("finetune {0}/finetune.yaml encoder.weights={0}/cut.safetensors", "truncated or not a safetensors"),
        ("finetune {0}/finetune.yaml encoder.weights={0}/none.safetensors", "no such weights file"),
        ("finetune {0}/finetune.yaml select_on=test", "select_on"),
        ("finetune {0}/finetune.yaml classification.mixup=0.8 encoder.name=pose_transformer_tiny "
         "encoder.arguments={{}}", "mixup and cutmix are for video"),
        ("evaluate {0}/empty_folder", "not a finished fine-tuning run"),
        ("report {0}/empty_folder --out {0}/report.html", "empty_folder"),
        ("report {0}/nowhere --out {0}/report.html", "nowhere"),
        ("models nothing*", "no model matches"),
        ("config show {0}/none.yaml", "none.yaml does not exist"),
        ("weights export {0}/empty_folder {0}/out", "holds no encoder.safetensors"),
    ],
)  # fmt: skip
def test_wrong_input_is_exit_code_2_and_one_line(
    broken: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    if "cuda" in command:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
    assert run(shlex.split(command.format(broken))) == 2
    assert re.search(message, _error(capsys))
    assert not (broken / "run").exists(), "nothing was started"


def test_unknown_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrian"]) == 2
    assert "pretrian" in capsys.readouterr().err
    assert run(["models", "--fast"]) == 2
    assert "--fast" in capsys.readouterr().err


def test_folder_of_broken_videos_is_counted_not_hidden(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = broken / "m.csv"
    assert run(["data", "folder", str(broken / "videos"), "--out", str(out), "--workers", "1"]) == 0
    with out.open() as file:
        status = {Path(row["path"]).name: row["status"] for row in csv.DictReader(file)}
    assert status["fine.mp4"] == "ok"
    assert status["zero.mp4"].startswith("corrupt:")
    assert status["cut.mp4"].startswith("corrupt:")
    assert run(["data", "audit", str(out), "--json", "--out", str(broken / "audit.json")]) == 0
    assert json.loads((broken / "audit.json").read_text())


def test_a_whole_study_by_hand(mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = mini_corpus / "manifest.csv"
    first = write_config(PRETRAIN, tmp_path / "pretrain.yaml", manifest, tmp_path / "pre")
    assert run(["pretrain", str(first)]) == 0
    second = write_config(FINETUNE, tmp_path / "finetune.yaml", manifest, tmp_path / "fine")
    weights = tmp_path / "pre" / "encoder.safetensors"
    assert run(["finetune", str(second), f"encoder.weights={weights}"]) == 0
    assert "top1" in capsys.readouterr().out
    facts = read_metadata(weights)
    assert facts["recipe"] == "maskfeat"
    result = load_results(tmp_path / "fine" / "result.json")[0]
    assert result.provenance.pretraining[0]["recipe"] == "maskfeat"
    assert result.provenance.complete
    assert result.provenance.selection_set.startswith("val")
    assert (tmp_path / "pre" / "pictures.npz").is_file()

    assert run(["evaluate", str(tmp_path / "fine"), "--split", "val", "--views", "2x1"]) == 0
    again = load_results(tmp_path / "fine" / "evaluation_val_2x1" / "result.json")[0]
    assert again.provenance.split == "val"
    assert again.provenance.checkpoint_hash == result.provenance.checkpoint_hash

    # A second launch of a finished run does nothing and says the same.
    before = (tmp_path / "fine" / "result.json").stat().st_mtime_ns
    assert run(["finetune", str(second), f"encoder.weights={weights}"]) == 0
    assert (tmp_path / "fine" / "result.json").stat().st_mtime_ns == before
    assert run(["weights", "export", str(tmp_path / "fine"), str(tmp_path / "export")]) == 0
    assert json.loads((tmp_path / "export" / "classifier.json").read_text())["architecture"] == "mvit_tiny"

    for suffix in ("html", "md", "csv", "tex"):
        page = tmp_path / f"report.{suffix}"
        assert run(["report", str(tmp_path), "--out", str(page)]) == 0
        assert page.stat().st_size > 200


def test_incomplete_test_set_is_refused_before_any_work(
    mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    subprocess.run(["cp", "-r", str(mini_corpus), str(corpus)], check=True)
    manifest = Manifest.load(corpus / "manifest.csv")
    gone = manifest.select("test").clips[0]
    lost = dataclasses.replace(gone, status="missing")
    manifest.replace(lost if clip is gone else clip for clip in manifest).save(corpus / "manifest.csv")
    config = write_config(FINETUNE, tmp_path / "f.yaml", corpus / "manifest.csv", tmp_path / "fine")
    assert run(["finetune", str(config)]) == 2
    tests = len(manifest.select("test"))
    assert f"{tests - 1} of {tests} clips of split test are readable" in _error(capsys)
    assert not (tmp_path / "fine").exists()
    assert run(["finetune", str(config), "allow_partial=true"]) == 0
    assert f"on {tests - 1} of {tests} expected clips" in capsys.readouterr().out


def test_a_selection_clip_that_is_a_test_clip_stops_the_run(
    mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    subprocess.run(["cp", "-r", str(mini_corpus), str(corpus)], check=True)
    manifest = Manifest.load(corpus / "manifest.csv")
    val, test = (manifest.select(split).clips[0] for split in ("val", "test"))
    manifest.path_of(val).write_bytes(manifest.path_of(test).read_bytes())
    config = write_config(FINETUNE, tmp_path / "f.yaml", corpus / "manifest.csv", tmp_path / "fine")
    assert run(["finetune", str(config)]) == 2
    assert f"share 1 clips ({val.clip_id} = {test.clip_id})" in _error(capsys)
    assert not (tmp_path / "fine").exists()
    assert run(["finetune", str(config), "shared_with_test=drop"]) == 0
    assert (
        "1 that test also has left out" in load_results(tmp_path / "fine" / "result.json")[0].provenance.selection_set
    )
    # Scored on another corpus, the same model meets the clip again, now as test.
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(mini_corpus), str(other)], check=True)
    swapped = {"val": "test", "test": "val", "train": "train"}
    turned = manifest.replace(dataclasses.replace(clip, split=swapped[clip.split]) for clip in manifest)
    dataclasses.replace(turned, root=other).save(other / "manifest.csv")
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "fine"), "--manifest", str(other / "manifest.csv")]) == 2
    assert "selection and test share" in _error(capsys)


def test_schema_and_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("pretrain", "finetune", "probe"):
        assert run(["config", "schema", task]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert "run" in schema["properties"]
    assert run(["config", "show", "smoke/maskfeat.yaml", "optim.lr=3e-4"]) == 0
    shown: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert shown["optim"]["lr"] == 0.0003


def test_every_shipped_configuration_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed.keys() == shipped_configs().keys()
    assert listed["smoke/dpc.yaml"] == "SL-DPC of a tiny ST-GCN on the embedded corpus's exact poses"
    assert run(["config", "list", "smoke/*dpc*"]) == 0
    assert capsys.readouterr().out.split()[0] == "smoke/dpc.yaml"
    assert run(["config", "list", "nothing*"]) == 2


@pytest.mark.parametrize("task", ["finetune", "probe", "bench"])
def test_a_configuration_of_another_task_names_its_command(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([task, "smoke/dpc.yaml"]) == 2
    assert f"'pretrain', not '{task}'; `islr pretrain smoke/dpc.yaml` runs it" in _error(capsys)


def test_works_outside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrain", "smoke/maskfeat.yaml", "data.manifest=nowhere.csv"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pretrain", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == "islr: nowhere.csv: no such manifest; `islr data` makes one"
