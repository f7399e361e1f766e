"""Grids from published weights: imported as a stage, strictly, then fine-tuned or pre-trained further, and marked."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.stand_in import stand_in
from support.tiny_runs import FINETUNE, PRETRAIN
from support.videomae_names import videomae_names

from islr.cli import check_stage, run, schema_of
from islr.config import validate
from islr.config_files import read_tree
from islr.errors import UserError
from islr.evaluation.results import load_results
from islr.files import file_sha256
from islr.models import create_model
from islr.models.weights import read_metadata
from islr.study.bench import run_bench
from islr.study.config import GridConfig
from islr.study.expand import Grid, expand
from islr.study.preflight import refuse_grid
from pretrain.videomae import VideoMAE


def grid_of(tree: dict[str, Any]) -> tuple[GridConfig, Grid]:
    config = validate(GridConfig, tree, "grid.yaml")
    return config, expand(config, schema_of)


@pytest.fixture
def tree(mini_corpus: Path, tmp_path: Path) -> dict[str, Any]:
    """A tiny encoder as VideoMAE would publish it, fine-tuned and pre-trained further; a random initialisation."""
    torch.manual_seed(0)
    encoder = create_model("vit_tiny", frames=4, size=32)
    published = tmp_path / "published.pth"
    torch.save({"model": videomae_names(encoder.state_dict())}, published)
    for name, base in (("pretrain", PRETRAIN), ("finetune", FINETUNE)):
        content = (
            base
            | VideoMAE.smallest(tmp_path)
            | {"data": base["data"] | {"manifest": "unset"}, "run": base["run"] | {"out": "unset"}}
        )
        content = content if name == "pretrain" else {k: v for k, v in content.items() if k != "recipe"}
        content["optim"] = base["optim"] | {"epochs": 1, "warmup_epochs": 0}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    arguments = {"frames": 4, "size": 32}
    return {
        "name": "published",
        "out": str(tmp_path / "grid"),
        "corpora": {"target": {"manifest": str(mini_corpus / "manifest.csv")}},
        "target": "target",
        "regimes": {
            "scratch": {},
            "generic": {"public": True},
            "sign": {"stages": [["target"]]},
            "generic_then_sign": {"public": True, "stages": [["target"]]},
        },
        "methods": {
            "random": {"finetune": str(tmp_path / "finetune.yaml")},
            "videomae": {
                "public": {"file": str(published), "arch": "vit_tiny", "layout": "videomae", "arguments": arguments},
                "pretrain": str(tmp_path / "pretrain.yaml"),
                "pretrain_overrides": ["health.looks=0"],
                "finetune": str(tmp_path / "finetune.yaml"),
                "regimes": ["generic", "generic_then_sign"],
            },
        },
    }


def test_published_weights_are_a_stage_that_cells_start_from(tree: dict[str, Any]) -> None:
    config, grid = grid_of(tree)
    refuse_grid(config, grid, check_stage)
    kinds = [stage.name.split()[0] for stage in grid.stages]
    assert kinds == ["finetune", "import", "finetune", "pretrain", "finetune"]
    imported = grid.stages[1]
    assert [stage.name for stage in grid.stages if imported.name in stage.needs] == [
        grid.stages[2].name,
        grid.stages[3].name,
    ]
    assert [(cell.method, cell.regime) for cell in grid.cells] == [
        ("random", "scratch"),
        ("videomae", "generic"),
        ("videomae", "generic_then_sign"),
    ]
    tree["seeds"] = [0, 1]
    assert [stage.name for stage in grid_of(tree)[1].stages if stage.name.startswith("import")] == [imported.name]
    del tree["methods"]["videomae"]["regimes"], tree["methods"]["videomae"]["pretrain"]
    del tree["methods"]["videomae"]["pretrain_overrides"]
    assert {cell.regime for cell in grid_of(tree)[1].cells if cell.method == "videomae"} == {"generic"}


def test_published_weights_that_cannot_be_used_are_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    public = tree["methods"]["videomae"]["public"]
    sha256 = file_sha256(Path(public["file"]))
    for change, message in (
        ({"sha256": "0" * 64}, f"has sha256 {sha256}, not 0000"),
        ({"file": str(tmp_path / "gone.pyth")}, r"methods\.videomae\.public: .*gone\.pyth does not exist"),
        ({"layout": "svt"}, r"layout 'svt' is none of vit_tiny's \("),
        ({"arch": "vit_b"}, "it trains 'vit_tiny' and starts from 'vit_b' of import videomae"),
    ):
        tree["methods"]["videomae"]["public"] = public | change
        with pytest.raises(UserError, match=message):
            refuse_grid(*grid_of(tree), check_stage)
    tree["methods"]["videomae"]["public"] = public | {"sha256": sha256}
    refuse_grid(*grid_of(tree), check_stage)
    tree["methods"]["random"]["regimes"] = ["generic"]
    with pytest.raises(UserError, match=r"methods\.random has no public weights for regime 'generic'"):
        grid_of(tree)


def test_the_shipped_grid_of_published_weights_would_run(tmp_path: Path) -> None:
    tree = read_tree("bench/paper_public.yaml", [f"out={tmp_path / 'grid'}"])
    tree["corpora"] = {name: {"manifest": str(stand_in(tmp_path / name, signers=40))} for name in tree["corpora"]}
    tree |= {"seeds": [0], "lexicon": str(tmp_path / "wlasl2000" / "lexicon.csv")}
    for name, method in tree["methods"].items():
        if "public" in method:
            method["public"]["file"] = str(tmp_path / f"{name}.pth")
            Path(method["public"]["file"]).write_bytes(name.encode())
    config, grid = grid_of(tree)
    grid.problems[:] = [problem for problem in grid.problems if "tokenizer.safetensors" not in problem]
    refuse_grid(config, grid, check_stage)
    assert {cell.regime for cell in grid.cells if cell.method == "supervised i3d"} == {"generic"}
    assert sum(stage.name.startswith("import") for stage in grid.stages) == 8


def test_a_grid_of_published_weights_runs_and_marks_them(tree: dict[str, Any]) -> None:
    config, grid = grid_of(tree)
    report = run_bench(config, schema_of, check_stage, run, lambda line: None)
    imported = grid.stages[1].done
    assert imported.name == "videomae · generic.safetensors"
    assert read_metadata(imported)["name"] == "videomae · generic"
    recipes = {
        cell.regime: [
            stage["recipe"] for stage in load_results(grid.runs[cell.stage] / "result.json")[0].provenance.pretraining
        ]
        for cell in grid.cells
    }
    assert recipes == {
        "scratch": [],
        "generic": ["public weights"],
        "generic_then_sign": ["public weights", "videomae"],
    }
    page = report.read_text(encoding="utf-8")
    assert (
        "Pretraining: unknown. videomae · generic and videomae · generic → sign start from weights that others" in page
    )
