"""A broken run or corpus folder is left out with its reason, and the report on the others is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.report_runs import write_corpus, write_finetuning, write_pretraining

from islr.reporting import build_report
from islr.reporting.run_files import read_corpus, read_run

NUMBERS = "9" * 5000


def _with(key: str, value: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | {key: value})


def _replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


RUNS: dict[str, tuple[str, Callable[[str], str]]] = {
    "empty result": ("result.json", lambda text: ""),
    "no results": ("result.json", _with("results", [])),
    "results of another type": ("result.json", _with("results", 5)),
    "a result that is none": ("result.json", _with("results", ["x"])),
    "provenance of another type": ("result.json", _with("provenance", [1])),
    "long number": ("result.json", _replaced('"n": ', f'"n": {NUMBERS}')),
    "deep": ("result.json", lambda text: "[" * 100_000),
    "env of another type": ("env.json", lambda text: "[1]"),
    "endless number in env": ("env.json", _with("cpus", 10**400)),
    "tags of another type": ("config.yaml", lambda text: f"{text}\ntags: 5\n"),
    "name of another type": ("config.yaml", _replaced("name: maskfeat", "name: [1]")),
    "encoder of another type": ("config.yaml", lambda text: f"{text}\nencoder: 3\n".replace("encoder:\n", "was:\n", 1)),
    "recipe facts of another type": ("recipe.json", lambda text: '{"predictors": {"a": 1}}'),
    "details of another type": ("details.json", lambda text: '{"coverage": 1}'),
}
AUDITS = {
    "splits": 5,
    "duration_s": {"train": {"p50": "long"}},
    "signers": [1],
    "same_content": {"groups": "x"},
    "poses": {"share_of_frames_with_hand": {"left": None}},
    "forms": {"label_ceiling": {"test": {}}},
    "fps": {"30": "many"},
    "clips": 10**400,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_finetuning(folder / "fine", "maskfeat", 24, 24, draws=20)
    write_pretraining(folder / "pre", "maskfeat")
    write_corpus(folder / "corpus")
    return folder


def _broken(whole: Path, folder: Path, name: str) -> Path:
    file, change = RUNS[name]
    shutil.copytree(whole / "fine", folder)
    path = folder / file
    path.write_text(change(path.read_text() if path.exists() else ""), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_broken_run_has_a_reason_and_no_results(name: str, whole: Path, tmp_path: Path) -> None:
    folder = _broken(whole, tmp_path / "run", name)
    run = read_run(folder, "run", {path.name for path in folder.iterdir()})
    assert run is not None
    assert RUNS[name][0] in run.problem
    assert run.results == ()


def test_damaged_stages_and_metrics_of_an_encoder(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole / "pre", tmp_path / "pre"))
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"pretraining":"[', b'"pretraining":"7'))
    lines = ['{"kind": "train", "step": "x"}', '{"step": 1}', "7", '{"kind": "train", "step": 2, "loss": "low"}']
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "train", "step": 3, "loss": 0.5}']))
    run = read_run(folder, "pre", {path.name for path in folder.iterdir()})
    assert run is not None
    assert "pretraining" in run.problem
    assert run.rows("train", "loss") == ([3.0], [0.5])


@pytest.mark.parametrize("key", AUDITS)
def test_a_broken_audit_has_a_reason(key: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole / "corpus", tmp_path / "corpus"))
    path = folder / "audit.json"
    path.write_text(_with(key, AUDITS[key])(path.read_text()))
    corpus = read_corpus(folder, "corpus")
    assert "audit.json" in corpus.problem
    assert corpus.audit == {}


def test_the_others_are_reported(whole: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(whole, tmp_path / "runs"))
    for name in RUNS:
        _broken(whole, runs / name.replace(" ", "_"), name)
    named = runs / "emoji"
    shutil.copytree(whole / "fine", named)
    for file in ("config.yaml", "result.json"):
        text = (named / file).read_text(encoding="utf-8").replace("maskfeat", "mask🤟feat")
        (named / file).write_text(text, encoding="utf-8")
    (runs / "corpus" / "audit.json").write_text("[]")
    for suffix in (".html", ".md"):
        page = build_report([runs], tmp_path / f"report{suffix}").read_text(encoding="utf-8")
        assert "🤟" in page
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "audit.json" in text
    assert all(name.replace(" ", "_") in text.replace("\\", "") for name in RUNS)
