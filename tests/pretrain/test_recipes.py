"""What holds of every recipe: a killed run goes on to the same bits, with the same losses on the way.

The recipes with more to assert about an interrupted run do so in their own files.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.killed_runs import killed_at
from support.tiny_runs import PRETRAIN, TINY, write_config

from islr.config import load_config
from islr.training.tracking import read_metrics
from pretrain import RECIPES
from pretrain.run import ENCODER, PretrainConfig, run_pretrain

ELSEWHERE = {
    "maskfeat": "test_engine",
    "videomae": "test_videomae",
    "svt": "test_svt",
    "bevt": "test_bevt",
    "dpc": "test_dpc",
}


def test_every_recipe_is_killed_somewhere() -> None:
    assert set(TINY) | set(ELSEWHERE) == set(RECIPES)
    for file in ELSEWHERE.values():
        text = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
        assert "end_with_the_same_bits" in text or "ends_with_the_same_bits" in text


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_killed_run_ends_with_the_same_bits(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    changes = TINY[name] | {"health": {"looks": 0}}
    base = {key: value for key, value in PRETRAIN.items() if key not in TINY[name]}
    configs = []
    for run in ("whole", "cut"):
        path = write_config(base, tmp_path / f"{run}.yaml", mini_corpus / "manifest.csv", tmp_path / run, **changes)
        configs.append(load_config(PretrainConfig, path))
    run_pretrain(configs[0])
    for step in (2, 5):
        assert killed_at(configs[1], step)
    run_pretrain(configs[1])
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        whole, cut = load_file(file), load_file(tmp_path / "cut" / file.name)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(value, cut[key]) for key, value in whole.items()), file.name
    assert (tmp_path / "cut" / ENCODER).is_file()
    losses = [[row["loss"] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "cut")]
    assert losses[0] == losses[1]
