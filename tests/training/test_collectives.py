"""Every recipe computes with two processes what it computes with one, from the same batch, cut unevenly."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.process_groups import free_ports, run_world
from support.tiny_runs import PRETRAIN, write_config
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from islr.config import load_config
from islr.data.loading.order import epoch_order
from islr.training.checkpoint import read_checkpoint
from islr.training.tracking import read_metrics
from pretrain import RECIPES
from pretrain.leakage import Exposure
from pretrain.run import PretrainConfig, run_pretrain
from pretrain.targets.tokenizer_files import TOKENIZER

# Without dropout: the processes of a run draw what they drop independently. The tokenizer comes before bevt, which
# learns its words.
RUNS: dict[str, dict[str, Any]] = {
    "maskfeat": {
        "recipe": {"name": "maskfeat", "mask_pixels": 16, "depths": [0, -1], "motion_bins": 4},
        "encoder": {"name": "mvit_tiny", "arguments": {"frames": 8, "size": 64, "drop_path": 0.0}},
    },
    "videomae": {
        "recipe": {"name": "videomae", "mask_pixels": 16, "decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1},
        "encoder": {"name": "vit_tiny", "arguments": {"frames": 4, "size": 64}},
    },
    "svt": {
        "recipe": {
            "name": "svt",
            "views": "code",
            "prototypes": 32,
            "hidden_dim": 24,
            "bottleneck_dim": 12,
            "freeze_last_layer": 0,
            "video": {"local_size": 16},
        },
        "encoder": {"name": "timesformer_tiny", "arguments": {"frames": 4, "size": 32, "drop_path": 0.0}},
    },
    "tokenizer": {
        "recipe": {
            "name": "tokenizer",
            "vocabulary": 16,
            "restart_below": 0.5,
            "decoder_width": 8,
            "decoder_depth": 1,
        },
        "encoder": {"name": "frame_conv_tiny", "arguments": {"frames": 2, "size": 32}},
    },
    "bevt": {
        "recipe": {"name": "bevt", "tokenizer": "set by the test"},
        "encoder": {"name": "swin_tiny", "arguments": {"frames": 8, "size": 64, "drop_path": 0.0}},
    },
    "posemae": {
        "recipe": {"name": "posemae", "decoder_dim": 16, "decoder_depth": 1},
        "encoder": {"name": "pose_transformer_tiny", "arguments": {"frames": 8}},
    },
    "dpc": {
        "recipe": {"name": "dpc", "windows": 4, "window_frames": 5, "predicted": 2},
        "encoder": {"name": "stgcn_tiny", "arguments": {"dropout": 0.0}},
    },
    "supervised": {
        "recipe": {"name": "supervised"},
        "encoder": {"name": "r3d_tiny", "arguments": {"frames": 4, "size": 32}},
    },
}
# What a step moves without a gradient.
STATISTICS = {
    "svt": ("centre.value",),
    "tokenizer": ("tokenizer.codebook.codes", "tokenizer.codebook.usage", "tokenizer.project.1.running_var"),
    "dpc": ("encoder.point_norm.running_mean", "encoder.point_norm.running_var"),
}
GRADIENTS = "gradients.pt"


def test_every_recipe_is_compared() -> None:
    assert set(RUNS) == set(RECIPES)


@pytest.fixture(scope="module")
def runs(mini_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A first step of every recipe, by one process and by two: number of processes -> folder of the runs."""
    folder = tmp_path_factory.mktemp("across")
    manifest = uneven_corpus(mini_corpus, folder)
    configs: dict[int, list[Path]] = {1: [], 2: []}
    for size, paths in configs.items():
        (folder / str(size)).mkdir()
        for name, parts in RUNS.items():
            out = folder / str(size) / name
            base = {key: value for key, value in PRETRAIN.items() if key not in parts}
            changes = parts | {
                "optim": {"epochs": 0.25, "warmup_epochs": 0},  # one step
                "run": {"sync_batch_norm": True},
                "health": {"looks": 0},
            }
            changes["data"] = {"max_bad": 1.0}
            if name == "bevt":
                words = str(folder / "1" / "tokenizer" / TOKENIZER)
                changes["recipe"] = parts["recipe"] | {"tokenizer": words}
            paths.append(write_config(base, out.with_suffix(".yaml"), manifest, out, **changes))
    first_steps(configs[1], [])
    assert run_world(2, first_steps, configs[2], free_ports(len(RUNS))) == [0, 0]
    return {size: folder / str(size) for size in configs}


def uneven_corpus(corpus: Path, folder: Path) -> Path:
    """A copy in which the last clip of the first batch cannot be read, so that the second process has one less."""
    copy = folder / "corpus"
    shutil.copytree(corpus, copy)
    manifest = Exposure.load([str(copy / "manifest.csv")], ["train", "none"]).training_clips().select(status="ok")
    row = int(epoch_order(len(manifest), seed=0, epoch=0)[PRETRAIN["optim"]["batch_size"] - 1])
    clip = manifest.clips[row]
    for path in (clip.path, clip.pose):
        (copy / path).write_bytes((copy / path).read_bytes()[:100])
    return copy / "manifest.csv"


def first_steps(configs: list[Path], ports: list[int]) -> None:
    """Run the configurations one after another and keep the gradients of their first steps."""
    torch.set_num_threads(1)
    for place, path in enumerate(configs):
        if ports:
            os.environ["MASTER_PORT"] = str(ports[place])
        config = load_config(PretrainConfig, path)
        seen: list[list[torch.Tensor]] = []

        def keep(optimizer: Optimizer, args: Any, kwargs: Any, seen: list[list[torch.Tensor]] = seen) -> None:
            groups = (group["params"] for group in optimizer.param_groups)
            seen.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for g in groups for p in g])

        hook = register_optimizer_step_pre_hook(keep)
        run_pretrain(config)
        hook.remove()
        assert len(seen) == 1
        assert len(read_checkpoint(Path(config.run.out) / "last.ckpt")["state"]["failed"]) == 1
        if os.environ.get("RANK", "0") == "0":
            torch.save(seen[0], Path(config.run.out) / GRADIENTS)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(name: str, runs: dict[int, Path]) -> None:
    one, two = (runs[size] / name for size in (1, 2))
    losses, norms = (
        [read_metrics(run / "metrics.jsonl")[0][key] for run in (one, two)] for key in ("loss", "grad_norm")
    )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    gradients = [torch.load(run / GRADIENTS, weights_only=True) for run in (one, two)]
    largest = max(gradient.abs().max() for gradient in gradients[0])
    assert largest > 0
    for alone, together in zip(*gradients, strict=True):
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * float(largest))
    states = [read_checkpoint(run / "last.ckpt")["module"] for run in (one, two)]
    assert states[0].keys() == states[1].keys()
    for key in STATISTICS.get(name, ()):
        torch.testing.assert_close(states[1][key], states[0][key], rtol=1e-5, atol=1e-6)
        assert states[1][key].float().std() > 0
