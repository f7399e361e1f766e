"""Recipes, encoders and corpora from outside the project: by entry point of a package, and by file."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.killed_runs import killed_at
from support.paths import CHECKOUT
from support.recipe_runs import smallest_config
from support.tiny_runs import FINETUNE, PRETRAIN, write_config

from islr import plugins
from islr.cli import run
from islr.config import load_config
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.models import create_model, list_models
from islr.models.weights import load_encoder, read_metadata
from islr.training.tracking import read_metrics
from pretrain import RECIPES, find_recipe
from pretrain.recipe import ENCODER
from pretrain.run import PretrainConfig, run_pretrain

SOURCE = CHECKOUT / "tests" / "support" / "plugin" / "mean_colour.py"
ENTRIES = """[islr.recipes]
mean_colour = mean_colour:MeanColour
[islr.encoders]
small_resnet = colour_parts:small_resnet
[islr.corpora]
clips = colour_parts:clips
"""
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a stand-in package: its module, and the metadata that lists entry points."""
    site = tmp_path / "site"
    shutil.copytree(SOURCE.parent, site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{CHECKOUT}")  # for the processes that a test starts

    def add(name: str, entries: str) -> None:
        info = site / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entries)
        plugins.listed.cache_clear()

    yield add
    plugins.listed.cache_clear()
    for name in ("mean_colour", "colour_parts"):
        sys.modules.pop(name, None)


def test_a_package_adds_an_encoder_a_recipe_and_a_corpus(
    install: Install, mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("colours", ENTRIES)
    assert "small_resnet" in list_models()
    assert run(["models", "small_resnet"]) == 0
    assert "(colours 1.2)" in capsys.readouterr().out
    videos = next(path for path in mini_corpus.rglob("*.mp4")).parent
    command = ["data", "corpus", "clips", f"videos={videos}", "--out", str(tmp_path / "m.csv")]
    assert run(command) == 0
    assert len(Manifest.load(tmp_path / "m.csv")) > 0
    assert run([*command, "colour=red"]) == 2
    assert "got an unexpected keyword argument 'colour'" in capsys.readouterr().err
    out = tmp_path / "run"
    base = PRETRAIN | {"recipe": {"name": "mean_colour"}, "encoder": {"name": "small_resnet"}}
    path = write_config(base, tmp_path / "p.yaml", mini_corpus / "manifest.csv", out, health={"looks": 0})
    run_pretrain(load_config(PretrainConfig, path))
    assert json.loads((out / "env.json").read_text())["libraries"]["colours"] == "1.2"
    (stage,) = json.loads(read_metadata(out / ENCODER)["pretraining"])
    assert (stage["recipe"], stage["package"]) == ("mean_colour", "colours 1.2")
    assert load_encoder(out / ENCODER).architecture == "small_resnet"


def test_what_cannot_be_imported_names_its_package(install: Install) -> None:
    install("broken", "[islr.recipes]\nlost = no_such_module:Lost\n")
    with pytest.raises(
        UserError, match=r"recipe 'lost' of package broken 1\.2 cannot be imported: ModuleNotFoundError"
    ):
        find_recipe("lost")
    with pytest.raises(UserError, match="unknown recipe 'lots'; did you mean 'lost'"):
        find_recipe("lots")


def test_one_name_of_two_packages_is_refused(install: Install) -> None:
    install("one", "[islr.encoders]\nsmall = colour_parts:small_resnet\n")
    install("other", "[islr.encoders]\nsmall = colour_parts:clips\n")
    with pytest.raises(UserError, match="both list the encoder 'small'"):
        create_model("small")


def test_a_file_is_named_in_the_configuration(mini_corpus: Path, tmp_path: Path) -> None:
    """One file, one YAML: trained, killed, resumed, checked and reported."""
    name = f"{shutil.copy(SOURCE, tmp_path / 'mine.py')}:MeanColour"
    groups = find_recipe(name).smallest(tmp_path) | {"health": {"looks": 2, "clips": 8}, "run": {"device": "cpu"}}
    groups["recipe"]["name"] = name
    base = {key: value for key, value in PRETRAIN.items() if key not in groups or key == "run"}
    yaml = write_config(base, tmp_path / "mine.yaml", mini_corpus / "manifest.csv", tmp_path / "run", **groups)
    assert killed_at(load_config(PretrainConfig, yaml), 3)
    assert run(["pretrain", str(yaml)]) == 0
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert all(row["mean_colour"] > 0 for row in rows)
    found = tmp_path / "found.json"
    rate = ["optim.lr=6e-3", "optim.warmup_epochs=0"]
    only = ["--only", "data", "--only", "overfit", "--only", "reload", "--only", "shuffled"]
    assert run(["check", str(yaml), *rate, *only, "--clips", "4", "--json", str(found)]) == 0
    states = {check: facts["state"] for check, facts in json.loads(found.read_text())["checks"].items()}
    assert states == {"data": "pass", "overfit": "pass", "reload": "pass", "shuffled": "skip"}
    assert run(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.md")]) == 0
    assert "the mean colour of the batch" in (tmp_path / "report.md").read_text()


def test_a_grid_trains_it_and_reports_its_row(install: Install, mini_corpus: Path, tmp_path: Path) -> None:
    install("colours", ENTRIES)
    encoder = {"encoder": {"name": "small_resnet"}}
    optim = {"epochs": 1, "warmup_epochs": 0}
    for base in (PRETRAIN | {"recipe": {"name": "mean_colour"}, "health": {"looks": 0}}, FINETUNE):
        path = tmp_path / f"{base['task']}.yaml"
        write_config(base | encoder, path, Path("unset"), Path("unset"), optim=optim)
    grid = {
        "name": "colours",
        "out": str(tmp_path / "grid"),
        "corpora": {"target": {"manifest": str(mini_corpus / "manifest.csv")}},
        "target": "target",
        "regimes": {"sign": {"stages": [["target"]]}},
        "methods": {"colour": {task: str(tmp_path / f"{task}.yaml") for task in ("pretrain", "finetune")}},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    bench = [sys.executable, "-m", "islr", "bench", str(tmp_path / "grid.yaml")]  # forks, so in a process of its own
    subprocess.run(bench, cwd=CHECKOUT, check=True)
    assert "colour · sign" in (tmp_path / "grid" / "report.html").read_text(encoding="utf-8")


def test_one_line_in_recipes_is_enough(mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mean_colour", find_recipe(f"{SOURCE}:MeanColour"))
    changes = {"recipe": {"name": "mean_colour"}, "health": {"looks": 0}}
    run_pretrain(smallest_config("mean_colour", mini_corpus / "manifest.csv", tmp_path / "run", **changes))
    assert (tmp_path / "run" / ENCODER).is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/none.py:Mine", "none.py: no such file"),
        ("{folder}/broken.py:Mine", "broken.py cannot be imported: ZeroDivisionError"),
        ("{source}:MeanColours", "defines no 'MeanColours'; did you mean 'MeanColour'"),
        ("{source}:train_view", "is no subclass of pretrain.recipe.Recipe"),
    ],
)
def test_a_file_that_does_not_serve_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=message):
        find_recipe(name.format(folder=tmp_path, source=SOURCE))
