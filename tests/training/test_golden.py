"""The first five steps of each recipe, through the engine, fp32 on a CPU: their losses, and what else is logged.

A change that is not meant to change numbers keeps them. One that is meant to replaces the row: the failure shows what
it gives now.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from islr.data.loading.batches import TrainBatches
from islr.data.loading.config import DataConfig
from islr.data.manifest import Clip, Manifest
from islr.data.poses.pose import RIGHT_HAND, Pose
from islr.data.views.source import ClipSource
from islr.models import create_model
from islr.training.distributed.world import World
from islr.training.engine import Trainer
from islr.training.harness import Run, TrainingConfig
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig
from islr.training.tracking import read_metrics
from pretrain import RECIPES
from pretrain.tokenizer import Tokenizer, TokenizerConfig

STEPS, CLIPS, BATCH, LENGTH, SIZE = 5, 8, 4, 24, 80
ALWAYS_LOGGED = {"loss", "lr", "grad_norm", "clips_per_s", "data_wait"}
# What tells learning from none: the scores of trivial predictors, and the signs of a collapse.
LOGGED = {
    "bevt": {"unigram_entropy", "video_loss", "target_perplexity"},
    "dpc": {"accuracy", "chance", "repeated_accuracy", "accuracy_in_clip", "feature_std"},
    "maskfeat": {"zero_prediction", "place_mean"},
    "posemae": {"points", "motion", "line_points", "line_motion", "no_motion"},
    "supervised": {"accuracy", "uniform_classes", "majority_accuracy"},
    "svt": {"teacher_entropy", "uniform_teacher", "prototype_entropy", "centre_norm", "feature_std", "feature_rank"},
    "tokenizer": {"mean_prediction", "reconstruction", "perplexity", "words_used"},
    "videomae": {"zero_prediction", "place_mean", "variance_ratio"},
}
SMALL_TOKENIZER = {"vocabulary": 16, "code_dim": 8, "decoder_width": 8, "decoder_depth": 1}


@dataclass(frozen=True)
class Trace:
    """A small run and its losses.

    Attributes:
        encoder: Name and arguments.
        losses: Of the first steps.
        options: Of the recipe.
        prepare: Makes further options, files among them, in a folder.
    """

    encoder: tuple[str, dict[str, Any]]
    losses: list[float]
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], dict[str, Any]] = lambda folder: {}


def words_of_pixels(folder: Path) -> dict[str, Any]:
    """A tokenizer whose codes were set by k-means on the first clips, in a file."""
    config = TokenizerConfig(**SMALL_TOKENIZER)
    recipe = Tokenizer(create_model("frame_conv_tiny", frames=2, size=32), config)
    view = recipe.views(config, recipe.encoder.input_spec)
    clips = [view(DrawnStore().source(number), np.random.default_rng(number))["clip"] for number in range(CLIPS)]
    recipe.train()({"clip": torch.stack(clips)})
    recipe.export(folder, {})
    return {"tokenizer": str(folder / "tokenizer.safetensors")}


TRACES = {
    "bevt": Trace(("swin_tiny", {"frames": 4}), [5.66599, 5.68498, 4.94036, 5.01305, 5.00409], prepare=words_of_pixels),
    "dpc": Trace(
        ("stgcn_tiny", {}),
        [2.49137, 2.55558, 2.36942, 2.30962, 2.06123],
        {"windows": 5, "window_frames": 4, "predicted": 3},
    ),
    "maskfeat": Trace(
        ("mvit_tiny", {"frames": 4}), [0.185091, 0.193475, 0.142083, 0.129554, 0.114245], {"mask_pixels": 16}
    ),
    "posemae": Trace(
        ("pose_transformer_tiny", {"frames": 16}), [1.82971, 1.65404, 1.42287, 2.05327, 1.48162], {"decoder_dim": 32}
    ),
    "supervised": Trace(("mvit_tiny", {"frames": 4, "size": 32}), [0.693139, 0.693094, 0.672923, 0.729216, 0.606604]),
    "svt": Trace(
        ("timesformer_tiny", {"frames": 4, "size": 32}),
        [3.81886, 4.95177, 4.21187, 2.95198, 2.1854],
        {"prototypes": 32, "hidden_dim": 24, "bottleneck_dim": 12, "video": {"local_size": 16}},
    ),
    "tokenizer": Trace(
        ("frame_conv_tiny", {"frames": 2, "size": 32}),
        [0.300684, 0.291696, 0.295442, 0.266131, 0.282685],
        SMALL_TOKENIZER,
    ),
    "videomae": Trace(
        ("vit_tiny", {"size": 48, "patch": 8}),
        [1.28783, 1.27903, 1.22108, 1.1649, 1.15239],
        {"mask_pixels": 8, "mask_ratio": 0.75, "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4},
    ),
}


class Drawn:
    """A square that moves over waves, and a right hand that moves as it does; quacks like a clip source."""

    length, fps = LENGTH, 25.0

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng(number)
        self.clip = Clip(str(number), f"{number}.mp4", label=number % 2)
        self.colours, self.wave = rng.integers(30, 226, (2, 3)), rng.uniform(-0.5, 0.5, 2)
        self.start, self.speed = rng.uniform(10, SIZE - 30, 2), rng.uniform(-1, 1, 2)
        self.points = 0.5 + rng.normal(0, 0.1, (75, 3))
        self.points[11, :2], self.points[12, :2] = (0.6, 0.5), (0.4, 0.5)

    def read(self, indices: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[:SIZE, :SIZE]
        waves = 40 * np.sin(self.wave[0] * y + self.wave[1] * x)[..., None]
        frames = np.clip(self.colours[0] + waves, 0, 255).astype(np.uint8)[None].repeat(len(indices), axis=0)
        for frame, index in zip(frames, indices, strict=True):
            top, left = np.clip(self.start + self.speed * index, 0, SIZE - 20).astype(int)
            frame[top : top + 20, left : left + 20] = self.colours[1]
        return frames

    def pose(self) -> Pose:
        points = np.tile(self.points, (LENGTH, 1, 1))
        points[:, RIGHT_HAND, :2] += (np.arange(LENGTH)[:, None] * self.speed / SIZE)[:, None]
        return Pose(points.astype(np.float32), np.ones((LENGTH, 75), np.float32), self.fps, SIZE, SIZE)


class SmallRun(TrainingConfig):
    """What the engine reads of a configuration."""

    optim: OptimConfig
    run: RunConfig


class DrawnStore:
    """Quacks like a store of drawn clips."""

    def __init__(self) -> None:
        self.config = DataConfig(manifest=("drawn",))
        self.manifest = Manifest("drawn", tuple(Drawn(number).clip for number in range(CLIPS)), Path())
        self.lost: dict[int, str] = {}

    def __len__(self) -> int:
        return CLIPS

    def source(self, index: int) -> ClipSource:
        return Drawn(index)  # type: ignore[return-value]


def first_steps(name: str, trace: Trace, folder: Path) -> list[dict[str, Any]]:
    """What a recipe logs of its first steps, of weights and clips that depend on seeds alone."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    config = recipe.Config(**trace.options, **trace.prepare(folder))
    encoder, arguments = trace.encoder
    extra = {"num_classes": 2} if recipe.needs_labels else {}
    module: Any = recipe(create_model(encoder, **arguments | recipe.encoder_arguments(config)), config, **extra)
    optim = OptimConfig(lr=1e-3, epochs=STEPS * BATCH / CLIPS, warmup_epochs=0.5, batch_size=BATCH)
    run = RunConfig(out=str(folder), device="cpu", log_every=1, wandb="disabled")
    view = recipe.views(config, module.encoder.input_spec)
    batches = TrainBatches(DrawnStore(), view, batch_size=BATCH, seed=run.seed)  # type: ignore[arg-type]
    Trainer(module, batches, Run(SmallRun(optim=optim, run=run), World("cpu"), folder), title=name).train()
    return read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_first_losses_stay_what_they_were(name: str, tmp_path: Path) -> None:
    rows = first_steps(name, TRACES[name], tmp_path)
    assert [row["loss"] for row in rows] == pytest.approx(TRACES[name].losses, rel=2e-4)
    assert all(ALWAYS_LOGGED | LOGGED[name] <= row.keys() for row in rows)
