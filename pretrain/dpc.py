"""SL-DPC: predict the next windows of a moving skeleton from the previous ones, by contrast with all others.

Dense predictive coding (Han et al., arXiv 1909.04656) on poses, as AI4Bharat/OpenHands does it (arXiv 2110.05877,
section 4): encode windows of ten frames, gather the first ones with a GRU, predict the features of the last ones step
by step, and identify each among the features of all predicted windows of the batch (InfoNCE).

Two defects of the published code are not reproduced. Its loss lays predictions out as [clip, feature, step] and then
cuts rows of features from that, which mixes steps and features; here a row is one step's prediction. Its table of
which pair is positive is kept from the first batch, so another batch size fails; here there is no table.

Deviations: clips are isolated signs. One that is shorter than all windows together is resampled to their length
(OpenHands takes long recordings only, weighted by length). The cosine falls once over the whole run (theirs returns
every ten epochs). What is kept is the encoder: fine-tuning pools it over the whole clip, where OpenHands fine-tunes the
GRU's last state over six windows of ten frames. With several processes the candidates are those of all of them, so that
what is learned does not depend on their number; they are never those of another part of an accumulated step.

As published, batch norms of the encoder see the windows that are predicted together with those that predict, and those
of one process alone (`run.sync_batch_norm` lets them see all).

Shapes: B clips, W windows of T frames, S of them predicted, D width.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from islr.checks.goal import SHARE, Goal
from islr.data.loading.loader import Batch
from islr.data.manifest import Clip
from islr.data.poses.pose import normalise
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig, augment_pose, resample_pose
from islr.data.views.source import ClipSource
from islr.data.views.views import View
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.encoder import Encoder
from islr.training.distributed.collectives import joined, share
from pretrain.recipe import Recipe, RecipeConfig

# OpenHands shears and rotates, each by N(0, 0.1), and leaves the rest; its clips are whole.
PUBLISHED_POSE = PoseAugmentConfig(
    crop=(1.0, 1.0), rotation=0.1, shear=0.1, scale=0.0, shift=0.0, jitter=0.0, drop_hand=0.0
)


class DPCConfig(RecipeConfig):
    """Options of SL-DPC; the defaults are the published ones."""

    name: Literal["dpc"] = "dpc"
    windows: int = Field(7, ge=2, description="consecutive windows of a clip")
    window_frames: int = Field(10, ge=1, description="frames of a window; the encoder is built for so many")
    frame_step: int = Field(1, ge=1, description="clip frames from one to the next; published: 3 with ST-GCN")
    predicted: int = Field(3, ge=1, description="windows at the end that are predicted")
    temperature: float = Field(1.0, gt=0, description="scores are divided by it; published: none, which is 1")
    pose: PoseAugmentConfig = PUBLISHED_POSE
    augment: Literal["clip", "window"] = Field(
        "clip", description="what an augmentation is drawn for; published: the clip, whose windows then share its map"
    )

    @model_validator(mode="after")
    def _possible(self) -> "DPCConfig":
        if self.predicted >= self.windows:
            raise ValueError(f"predicted {self.predicted} leaves none of {self.windows} windows to predict from")
        if self.pose.warp:
            raise ValueError("pose.warp bends the time of a whole sign; dpc takes windows at one speed: leave it out")
        if self.augment == "window" and self.pose.mirror:
            raise ValueError("pose.mirror is of whole clips; it cannot be drawn for each window")
        return self


def window_positions(
    length: int, frames: int, step: int, crop: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Draw the positions of all windows' frames in a clip, float64 `[frames]`, evenly spaced.

    They are `step` apart, at a random start, if the clip is long enough; otherwise they span a random part of it.

    Args:
        length: Frames of the clip.
        frames: Of all windows together.
        step: Distance between frames.
        crop: Smallest and largest share of the clip that is used.
        rng: Generator of the sample.
    """
    whole = length - 1
    span = min(float(step * (frames - 1)), rng.uniform(*crop) * whole)
    return np.floor(rng.uniform(0, whole - span)) + np.linspace(0, span, frames)


class DPC(Recipe):
    """A pose encoder, a GRU over windows, and a predictor of the next window.

    Args:
        encoder: Any pose encoder whose clips have as many frames as a window.
        config: Options.

    Raises:
        UserError: The encoder is built for other clips.
    """

    Config = DPCConfig
    modality = "pose"
    trivial_predictors: ClassVar = {
        "chance": Trivial("chance", ("accuracy",), rises=True),
        "chance_in_clip": Trivial("chance", ("accuracy_in_clip",), rises=True),
        "repeated_accuracy": Trivial("the last window, moved as clips move on average", ("accuracy",), rises=True),
        "repeated_accuracy_in_clip": Trivial(
            "the last window, moved as clips move on average", ("accuracy_in_clip",), rises=True
        ),
    }

    @staticmethod
    def encoder_arguments(config: DPCConfig) -> dict[str, Any]:
        """Build the encoder for one window at a time."""
        return {"frames": config.window_frames}

    @staticmethod
    def views(config: DPCConfig, input_spec: InputSpec) -> View:
        """Return the view of consecutive windows of one augmented pose sequence, float32 `[W, T, 75, 3]`."""
        shape = (config.windows, config.window_frames)

        def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
            pose, _ = normalise(source.pose())
            positions = window_positions(len(pose), shape[0] * shape[1], config.frame_step, config.pose.crop, rng)
            pose = resample_pose(pose, positions)
            parts = np.split(pose, config.windows) if config.augment == "window" else [pose]
            pose = np.concatenate([augment_pose(part, config.pose, rng) for part in parts])
            return {"clip": torch.from_numpy(pose.reshape(*shape, *pose.shape[1:]))}

        return view

    @classmethod
    def span(cls, config: DPCConfig, input_spec: InputSpec, clip: Clip) -> float:
        """Return the frames of all windows, one after another."""
        return config.windows * super().span(config, input_spec, clip)

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny ST-GCN on four windows of five frames."""
        return {
            "recipe": {"name": "dpc", "windows": 4, "window_frames": 5, "predicted": 2},
            "encoder": {"name": "stgcn_tiny", "arguments": {"dropout": 0.1}},
        }

    def __init__(self, encoder: Encoder, config: DPCConfig) -> None:
        super().__init__()
        if encoder.input_spec.frames != config.window_frames:
            raise UserError(
                f"window_frames={config.window_frames} and the encoder takes {encoder.input_spec.frames} frames"
            )
        self.encoder, self.config = encoder, config
        dim = encoder.dim
        self.gather = nn.GRU(dim, dim, batch_first=True)
        self.predictor = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        for name, parameter in [*self.gather.named_parameters(), *self.predictor.named_parameters()]:
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.orthogonal_(parameter)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss; the accuracy among all windows and among the clip's own; and the spread of the features."""
        features = self.features(batch["clip"])
        future = features[:, -self.config.predicted :]
        predicted = self.predict(features[:, : -self.config.predicted])
        candidates, clips_before = joined(future)
        scores = self.scores(predicted, candidates)
        weight = share(len(scores))
        loss = F.cross_entropy(scores, self._right(scores, clips_before)) * weight
        return {
            "loss": loss,
            **self._accuracies(scores.detach(), clips_before, ""),
            "feature_std": features.detach().float().flatten(0, 1).std(dim=0).mean(),
        }

    @torch.no_grad()
    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the chance levels, and the accuracies of the last window moved as the other clips move on average."""
        steps = self.config.predicted
        windows = batch["clip"][:, -steps - 1 :].flatten(2).float()  # [B, 1 + S, T * 75 * 3]
        last, future = windows[:, :1], windows[:, 1:]
        change = future - last
        moved = last + (change.sum(dim=0) - change) / max(len(change) - 1, 1)
        candidates, clips_before = joined(future)
        scores = -torch.cdist(moved.flatten(0, 1), candidates.flatten(0, 1))  # [B * S, B' * S]
        chances = {"chance": 1 / scores.shape[1], "chance_in_clip": 1 / steps}
        levels = {name: scores.new_tensor(level) for name, level in chances.items()}
        return levels | self._accuracies(scores, clips_before, "repeated_")

    def _right(self, scores: Tensor, clips_before: int) -> Tensor:
        """Return the column of each row's own window."""
        return torch.arange(len(scores), device=scores.device) + clips_before * self.config.predicted

    def _accuracies(self, scores: Tensor, clips_before: int, prefix: str) -> dict[str, Tensor]:
        """Return the share of windows that are found among all candidates, and among those of their clip alone."""
        right, steps, weight = self._right(scores, clips_before), self.config.predicted, share(len(scores))
        own = scores.unflatten(1, (-1, steps))[torch.arange(len(scores), device=scores.device), right // steps]
        found = {"accuracy": scores.argmax(dim=1) == right, "accuracy_in_clip": own.argmax(dim=1) == right % steps}
        return {f"{prefix}{name}": hit.float().mean() * weight for name, hit in found.items()}

    @torch.no_grad()
    def goal(self, batch: Batch) -> Goal:
        """Return half of the way from chance to naming every window."""
        chance = float(self.trivial(batch)["chance"])
        reason = f"half of the way from chance ({chance:.3g}) to 1"
        return Goal("accuracy", 1 - SHARE * (1 - chance), reason, rises=True)

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per window, `[B, W, T, 75, 3]` -> `[B, W, D]`."""
        return self.encoder(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])

    def predict(self, context: Tensor) -> Tensor:
        """Return the predicted features of the next windows, `[B, S, D]`, each from all windows before it.

        Args:
            context: Features of the first windows, `[B, W - S, D]`.
        """
        _, state = self.gather(F.relu(context))  # [1, B, D]
        predictions = []
        for _ in range(self.config.predicted):
            predictions.append(self.predictor(state[-1]))
            _, state = self.gather(F.relu(predictions[-1])[:, None], state)
        return torch.stack(predictions, dim=1)

    def scores(self, predicted: Tensor, future: Tensor) -> Tensor:
        """Return the inner products of every prediction with every feature, `[B * S, B' * S]`.

        The positives are on the diagonal that begins at the predictions' own clips. Other windows of the same clip are
        negatives.

        Args:
            predicted: `[B, S, D]`.
            future: `[B', S, D]`, of the same clips, and maybe others, in order.
        """
        rows, columns = predicted.flatten(0, 1).float(), future.flatten(0, 1).float()
        return rows @ columns.t() / self.config.temperature
