"""The grid: equal stages once, changed ones again, failures stay local, a killed grid goes on, SLURM's code path."""

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.process_groups import background, run_command
from support.stand_in import stand_in
from support.tiny_runs import FINETUNE, PRETRAIN

from islr.cli import check_stage, run, schema_of
from islr.config import validate
from islr.config_files import read_overrides, read_tree
from islr.errors import RunFailed, UserError
from islr.evaluation.results import load_results
from islr.study.bench import plan, run_bench
from islr.study.config import GridConfig
from islr.study.expand import Grid, expand
from islr.study.launchers import Torchrun, command_line
from islr.study.preflight import refuse_grid
from pretrain.bevt import BEVT


@pytest.fixture
def tree(mini_corpus: Path, tmp_path: Path) -> dict[str, Any]:
    """Two methods, three regimes on the mini corpus; one epoch each."""
    manifest = mini_corpus / "manifest.csv"
    for name, base in (("pretrain", PRETRAIN), ("finetune", FINETUNE)):
        content = base | {"data": base["data"] | {"manifest": "unset"}, "run": base["run"] | {"out": "unset"}}
        content["optim"] = base["optim"] | {"epochs": 1, "warmup_epochs": 0}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    recipe, tuning = str(tmp_path / "pretrain.yaml"), str(tmp_path / "finetune.yaml")
    return {
        "name": "tiny grid",
        "out": str(tmp_path / "grid"),
        "corpora": {"target": {"manifest": str(manifest)}},
        "target": "target",
        "regimes": {
            "scratch": {},
            "sign": {"stages": [["target"]]},
            "sign_twice": {"stages": [["target"], ["target"]]},
        },
        "methods": {
            "random": {"finetune": tuning},
            "maskfeat": {"pretrain": recipe, "pretrain_overrides": ["health.looks=0"], "finetune": tuning},
        },
    }


def grid_of(tree: dict[str, Any]) -> tuple[GridConfig, Grid]:
    config = validate(GridConfig, tree, "grid.yaml")
    return config, expand(config, schema_of)


def test_equal_stages_are_made_once_and_changed_ones_again(tree: dict[str, Any]) -> None:
    _, grid = grid_of(tree)
    assert [stage.name.split()[0] for stage in grid.stages] == [
        "finetune",
        "pretrain",
        "finetune",
        "pretrain",
        "finetune",
    ]
    first, second = (stage for stage in grid.stages if stage.name.startswith("pretrain"))
    assert first.name in second.needs
    assert [(cell.method, cell.regime) for cell in grid.cells] == [
        ("random", "scratch"),
        ("maskfeat", "sign"),
        ("maskfeat", "sign_twice"),
    ]
    names = {stage.name for stage in grid.stages}
    tree["methods"]["maskfeat"]["finetune_overrides"] = ["run.wandb=offline", "name=other"]
    assert {stage.name for stage in grid_of(tree)[1].stages} == names
    tree["methods"]["maskfeat"]["finetune_overrides"] = ["optim.lr=2e-3"]
    assert len(names & {stage.name for stage in grid_of(tree)[1].stages}) == 3  # random and the two pre-trainings stay
    tree["methods"]["maskfeat"] |= {"finetune_overrides": [], "pretrain_overrides": ["recipe.mask_ratio=0.5"]}
    assert len(names & {stage.name for stage in grid_of(tree)[1].stages}) == 1


def test_names_reach_the_runs_as_they_are_written(tree: dict[str, Any]) -> None:
    tree["methods"] = {"mask 🤟 #1": tree["methods"].pop("maskfeat")}
    _, grid = grid_of(tree)
    for stage in grid.stages:
        given = read_overrides([text for text in stage.arguments if text.startswith(("tags=", "name="))])
        assert given["tags"]["method"] == "mask 🤟 #1"
        assert given["name"].startswith("mask 🤟 #1 · ")


def test_files_that_runs_start_from_are_part_of_what_they_are(tree: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "public.safetensors"
    tree["methods"]["maskfeat"]["pretrain_overrides"] = [f"encoder.weights={weights}"]
    assert grid_of(tree)[1].problems == [f"{tmp_path / 'pretrain.yaml'}: {weights} does not exist"] * 2
    weights.write_bytes(b"one")
    first = {stage.name for stage in grid_of(tree)[1].stages}
    weights.write_bytes(b"two")
    assert len(first & {stage.name for stage in grid_of(tree)[1].stages}) == 1  # the random start alone


def stood_in(name: str, folder: Path, lost: int = 0) -> dict[str, Any]:
    """A shipped grid on stand-ins of its corpora and other files."""
    tree = read_tree(f"bench/{name}.yaml", [f"out={folder / 'grid'}"])
    signers = 40 if name == "paper" else 8  # VideoMAE's batch has 2048 clips
    tree["corpora"] = {
        corpus: {"manifest": str(stand_in(folder / corpus, lost if corpus == tree["target"] else 0, signers))}
        for corpus in tree["corpora"]
    }
    tree["lexicon"] = str(folder / tree["target"] / "lexicon.csv")
    tree["seeds"] = [0]  # nothing that is checked depends on the seed
    tree["methods"] = {
        name: {key: value for key, value in method.items() if key != "seeds"}
        for name, method in tree["methods"].items()
    }
    if "bevt" in tree["methods"] and "tokenizer" not in tree["methods"]["bevt"]:
        tokenizer = BEVT.smallest(folder)["recipe"]["tokenizer"]
        tree["methods"]["bevt"]["pretrain_overrides"] = [f"recipe.tokenizer={tokenizer}"]
    return tree


@pytest.mark.parametrize("name", ["small", "sign_aware", "front_end", "wlasl100", "paper"])
def test_every_stage_of_a_shipped_grid_would_run(name: str, tmp_path: Path) -> None:
    config, grid = grid_of(stood_in(name, tmp_path))
    refuse_grid(config, grid, check_stage)
    assert {cell.method for cell in grid.cells} == set(config.methods)
    encoders = {grid.kinds[cell.stage][1] for cell in grid.cells if cell.regime == "scratch"}
    assert {grid.kinds[cell.stage][1] for cell in grid.cells} == encoders  # every encoder has its random start


def test_all_that_keeps_a_grid_from_its_end_is_said_at_once(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree["corpora"] = {"target": {"manifest": str(stand_in(tmp_path / "target", lost=3))}}
    tree["corpora"] |= {name: {"manifest": f"{name}.csv"} for name in ("web", "films")}
    tree["regimes"]["generic"] = {"stages": [["web"]]}
    tree |= {"probe": "smoke/probe.yaml", "lexicon": "absent.csv"}
    tree["backend"] = {"kind": "torchrun", "processes": 4}  # the fine-tuning takes 6 clips
    tree["methods"]["other"] = tree["methods"]["maskfeat"] | {"regimes": ["generic"]}
    tree["methods"]["other"]["pretrain_overrides"] = ["encoder.name=vit_tiny", "encoder.arguments.size=64"]
    tree["methods"]["other"]["finetune_overrides"] = ["optim.batch_size=8"]
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert run(["bench", str(path), "--plan"]) == 2
    said = capsys.readouterr().err
    for problem in (
        "corpora.web: web.csv does not exist",
        "corpora.films: films.csv does not exist",
        "lexicon: absent.csv does not exist",
        "117 of 120 clips of split test are readable",
        "it trains 'mvit_tiny' and starts from 'vit_tiny'",
    ):
        assert said.count(problem) == 1
    assert said.count("\n") == 1
    del tree["corpora"]["web"], tree["corpora"]["films"], tree["regimes"]["generic"], tree["methods"]["other"]
    path.write_text(yaml.safe_dump(tree | {"probe": None, "allow_partial": True}))
    assert run(["bench", str(path), "--plan"]) == 2
    assert "batch_size 6 is not a multiple of 4 processes" in capsys.readouterr().err
    assert run(["bench", str(path), "--plan", "backend.processes=2"]) == 0
    assert "117 of 120 test clips of target are readable" in capsys.readouterr().out
    assert not (tmp_path / "grid").exists()


def test_the_plan_counts_clips_and_time(tree: dict[str, Any]) -> None:
    tree["corpora"]["more"] = {"synth": {"kind": "actions", "signs": 3, "signers": 4, "reps": 2, "val_signers": 1}}
    tree["corpora"]["more"]["synth"]["test_signers"] = 0
    tree["regimes"] = {"scratch": {}, "generic": {"stages": [["more"]]}}
    tree["methods"]["maskfeat"]["clips_per_s"] = {"pretrain": 4.5}
    config, grid = grid_of(tree)
    [pretrain] = [stage for stage in grid.stages if stage.name.startswith("pretrain")]
    assert grid.clips[pretrain.name] == 3 * 2 * 3  # not rendered yet: counted from its options
    lines = plan(config, grid)
    assert any(re.search("18 clips +4 s$", line) for line in lines)
    assert "2 of 3 stages" in lines[-1]  # both fine-tunings
    folder = grid.runs[pretrain.name]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 1, "clips_per_s": 9.0}\n{"kind": "tr'
    )  # cut short by a kill
    assert any(re.search("18 clips +2 s$", line) for line in plan(config, grid))  # measured beats declared
    tree["corpora"]["more"]["synth"]["sings"] = 4
    with pytest.raises(UserError, match="no option of islr synth: sings"):
        grid_of(tree)


def test_a_tokenizer_is_trained_on_what_its_recipe_sees_and_once(tree: dict[str, Any]) -> None:
    tree["methods"] = {
        "bevt": {
            "pretrain": "smoke/bevt.yaml",
            "tokenizer": "smoke/tokenizer.yaml",
            "finetune": "smoke/finetune_video.yaml",
        }
    }
    _, grid = grid_of(tree)
    [words] = [stage for stage in grid.stages if "tokenizer" in stage.name]
    first, second = (stage for stage in grid.stages if stage.name.startswith("pretrain bevt-target"))
    assert words.done.name == "tokenizer.safetensors"
    assert words.name in first.needs
    assert words.name in second.needs  # the same clips and seed: the same tokenizer
    assert f"recipe.tokenizer={words.done}" in first.arguments
    tree["methods"]["bevt"]["tokenizer_overrides"] = ["recipe.vocabulary=64"]
    changed = {stage.name for stage in grid_of(tree)[1].stages}
    assert not changed & {words.name, first.name, second.name}  # another tokenizer is another target
    tree["methods"]["bevt"]["pretrain"] = None
    with pytest.raises(UserError, match="tokenizer and no pretrain"):
        grid_of(tree)
    tree["methods"]["bevt"] |= {"pretrain": "smoke/bevt.yaml", "tokenizer": None}
    assert any("tokenizer.safetensors does not exist" in problem for problem in grid_of(tree)[1].problems)


def test_wrong_grids_are_refused_before_any_work(tree: dict[str, Any]) -> None:
    for change, message in (
        ({"target": "aim"}, "target names corpus 'aim'; known: target"),
        ({"regimes": {"sign": {"stages": [["web"]]}}}, "regimes.sign names corpus 'web'"),
        ({"corpora": {"target": {}}}, "either manifest or synth"),
        ({"methods": {"a/b": tree["methods"]["random"]}}, "methods: 'a/b' names folders"),
        ({"methods": {"m": {"finetune": "x.yaml", "regimes": ["sign"]}}}, "has no pretrain config for regime 'sign'"),
    ):
        with pytest.raises(UserError, match=message):
            grid_of(tree | change)
    with pytest.raises(UserError, match=r"unknown key 'optim\.speed'"):
        grid_of(tree | {"methods": {"r": tree["methods"]["random"] | {"finetune_overrides": ["optim.speed=1"]}}})


def test_a_grid_runs_reports_and_goes_on_after_a_kill(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(tree))
    config, grid = grid_of(tree)
    process = background(run_command, ["bench", str(path)], path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(stage.done.exists() for stage in grid.stages):
        time.sleep(0.05)
    process.kill()
    process.join()
    done = [stage for stage in grid.stages if stage.done.exists()]
    assert 1 <= len(done) < len(grid.stages)
    stamps = {stage.name: stage.done.stat().st_mtime_ns for stage in done}
    said: list[str] = []
    report = run_bench(config, schema_of, check_stage, run, said.append)
    assert all(stage.done.stat().st_mtime_ns == stamps[stage.name] for stage in done)
    assert f"{len(done)} of them done" in said[0]
    names = {load_results(stage.done)[0].name for stage in grid.stages if stage.name.startswith("finetune")}
    assert names == {"random · scratch", "maskfeat · sign", "maskfeat · sign_twice"}
    assert all(name in report.read_text(encoding="utf-8") for name in names)
    assert all(line.startswith("  done") for line in plan(config, grid)[1:-1])


def test_a_failed_cell_does_not_stop_others_and_slurm_s_code_path_runs(tree: dict[str, Any]) -> None:
    pytest.importorskip("submitit")
    tree["backend"] = {"kind": "slurm", "cluster": "local", "parameters": {"timeout_min": 5}}
    tree["regimes"] = {"scratch": {}, "sign": {"stages": [["target"]]}}
    tree["methods"]["maskfeat"]["pretrain_overrides"] += ["optim.batch_size=4000"]  # more than there are clips
    config, grid = grid_of(tree)
    with pytest.raises(RunFailed, match=r"1 stages failed and 1 were skipped \(pretrain maskfeat.*exit 2: islr: "):
        run_bench(config, schema_of, lambda stage, ranks: None, run, lambda line: None)
    finished = {stage.name.split()[0] for stage in grid.stages if stage.done.exists()}
    assert finished == {"finetune"}
    assert (Path(config.out) / "report.html").is_file()


def test_torchrun_is_for_training_stages() -> None:
    assert "--nproc-per-node=4" in command_line(["pretrain", "x.yaml"], 4)
    assert command_line(["probe", "x.yaml"], 4) == [sys.executable, "-m", "islr", "probe", "x.yaml"]
    assert command_line(["pretrain", "x.yaml"], 1) == [sys.executable, "-m", "islr", "pretrain", "x.yaml"]


def test_torchrun_starts_processes_and_keeps_their_exit_code(tree: dict[str, Any], tmp_path: Path) -> None:
    _, grid = grid_of(tree | {"methods": {"random": tree["methods"]["random"]}, "regimes": {"scratch": {}}})
    (stage,) = grid.stages
    log = tmp_path / "wrong.log"
    wrong = [*stage.arguments, "optim.batch_size=4000"]
    assert Torchrun(2).start("wrong", wrong, log).wait() == 2
    assert log.read_text().count("islr: optim.batch_size is 4000") == 1
