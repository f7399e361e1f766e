"""Monitoring of the frozen features during pre-training.

A falling loss shows neither the quality of features nor their collapse to a point. Each evaluation encodes the same
clips, with the views of evaluation, and logs

- `feature_spread`: standard deviation of the features at length 1, times sqrt(D): 0 when all clips have one feature,
  1 when features fill all directions evenly (the collapse measure of SimSiam, arXiv 2011.10566, figure 2);
- `feature_rank`: exponential of the entropy of the normalised singular values of the centred features (RankMe, arXiv
  2210.02885, equation 1): how many directions are in use;
- `looked_at`: how many clips could be read; without any, nothing else is logged;
- `knn_top1`: share of val clips whose nearest labelled training clips vote for their sign, by cosine, and `knn_chance`.

Shapes: n clips, D width.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from islr.config import Config
from islr.data.loading.batches import eval_batches
from islr.data.loading.config import DataConfig
from islr.data.loading.loader import Batch
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.data.views.views import eval_view
from islr.models.encoder import Encoder, to_input
from islr.training.distributed.world import World
from islr.training.engine import to_device
from pretrain.recipe import Recipe

COLLAPSED_SPREAD = 1e-3  # of unit-length features; random initialisations lie at 1e-2 and above
COLLAPSED_RANK = 1.5  # directions; two clusters already have more
_BATCH = 16  # clips encoded at once
_VOTE_TEMPERATURE = 0.07  # of the vote of neighbours (arXiv 1805.01978 section 3.4)

logger = logging.getLogger(__name__)


class MonitorConfig(Config):
    """When and on which clips the features are evaluated."""

    looks: int = Field(5, ge=0, description="evaluations over the run, the first before any training; 0 = none")
    clips: int = Field(256, ge=8, description="clips to encode, and as many labelled ones as neighbours")
    neighbours: int = Field(5, ge=1, description="nearest labelled training clips that vote on each val clip")


class FeatureMonitor:
    """Evaluates an encoder's features at a few epochs.

    Args:
        config: When, and on how many clips.
        manifest: The corpus to encode: its val clips, or others if it has none, never its test.
        data: How clips are read.
        epochs: Length of the run.
        world: Only its first rank evaluates.
    """

    def __init__(
        self, config: MonitorConfig, manifest: Manifest, data: DataConfig, epochs: float, world: World
    ) -> None:
        self.config, self.world = config, world
        val, train = _usable(manifest, ("val",)), _usable(manifest, ("train",))
        self.encoded = manifest.replace(_evenly(val or _usable(manifest, ("train", "none")), config.clips))
        self.voters = manifest.replace(_evenly(train, config.clips))
        labelled = all(clip.label is not None for part in (self.encoded, self.voters) for clip in part)
        self.votes = bool(val) and bool(train) and labelled
        stores = [self.encoded, self.voters] if self.votes else [self.encoded]
        self.stores = [ClipStore(part, data) for part in stores if len(part)]
        self._cached: dict[int, list[Batch]] = {}  # batches of each store, where clips are cached in memory
        last = int(np.ceil(epochs))
        self.due = {round(epoch) for epoch in np.linspace(0, last, config.looks)} if config.looks > 1 else {last}
        if not config.looks or not self.stores:
            self.due = set()

    def __call__(self, recipe: nn.Module, epoch: float) -> dict[str, float]:
        """Return the measures at this epoch; empty if none are due."""
        if int(np.ceil(epoch)) not in self.due or not self.world.main:
            return {}
        assert isinstance(recipe, Recipe)
        encoder = recipe.exported
        features = [encode(encoder, self._batches(place, encoder), self.world) for place in range(len(self.stores))]
        numbers = {"looked_at": float(len(features[0][1]))}  # clips that could be read
        if not all(rows for _, rows in features):
            return numbers
        numbers |= spread_and_rank(features[0][0])
        if self.votes:
            labels = [
                np.array([store.manifest.clips[row].label for row in rows])
                for (_, rows), store in zip(features, self.stores, strict=True)
            ]
            numbers |= neighbour_votes(features[0][0], labels[0], features[1][0], labels[1], self.config.neighbours)
        numbers["collapsed"] = float(
            numbers["feature_spread"] < COLLAPSED_SPREAD or numbers["feature_rank"] < COLLAPSED_RANK
        )
        if numbers["collapsed"]:
            logger.warning(
                "the features have collapsed: spread %.1g, rank %.2f at epoch %g",
                numbers["feature_spread"],
                numbers["feature_rank"],
                epoch,
            )
        return numbers

    def _batches(self, place: int, encoder: Encoder) -> Iterable[Batch]:
        if place in self._cached:
            return self._cached[place]
        store = self.stores[place]
        batches = eval_batches(store, eval_view(encoder.input_spec), batch_size=_BATCH)
        if store.config.cache == "memory":
            self._cached[place] = list(batches)
            return self._cached[place]
        return batches


def _usable(manifest: Manifest, splits: Sequence[str]) -> list[Clip]:
    return [clip for clip in manifest.select() if clip.split in splits]


def _evenly(clips: Sequence[Clip], most: int) -> Iterable[Clip]:
    """Return at most `most` clips, evenly spaced."""
    if len(clips) <= most:
        return clips
    return [clips[int(place)] for place in np.linspace(0, len(clips) - 1, most)]


@torch.inference_mode()
def encode(encoder: Encoder, batches: Iterable[Batch], world: World) -> tuple[Tensor, list[int]]:
    """Return the features of the clips that could be read, `[n, D]`, and their rows in the store's manifest."""
    training = encoder.training
    encoder.eval()
    features, rows = [], []
    for batch in batches:
        if len(batch["index"]):
            clip = to_input(to_device(batch, world.device)["clip"], encoder.input_spec)
            features.append(encoder(clip).float().cpu())
            rows += batch["index"].tolist()
    encoder.train(training)
    return torch.cat(features) if features else torch.empty(0, encoder.dim), rows


def spread_and_rank(features: Tensor) -> dict[str, float]:
    """Return the spread of unit-length features `[n, D]` and their effective rank."""
    unit = nn.functional.normalize(features, dim=1)
    spread = unit.std(dim=0).mean() * features.shape[1] ** 0.5
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    entropy = -(share * share.clamp(min=torch.finfo(values.dtype).tiny).log()).sum()
    return {"feature_spread": float(spread), "feature_rank": float(entropy.exp())}


def neighbour_votes(
    features: Tensor, labels: np.ndarray, voters: Tensor, voted: np.ndarray, neighbours: int
) -> dict[str, float]:
    """Return the accuracy of the weighted vote of the nearest labelled clips, and its chance level.

    Args:
        features: `[n, D]` with `labels` `[n]`, the clips to classify.
        voters: `[m, D]` with labels `voted` `[m]`.
        neighbours: How many vote.
    """
    similarity = nn.functional.normalize(features, dim=1) @ nn.functional.normalize(voters, dim=1).T  # [n, m]
    nearest = similarity.topk(min(neighbours, similarity.shape[1]), dim=1)
    classes = int(max(labels.max(), voted.max())) + 1
    votes = torch.zeros(len(features), classes)
    votes.scatter_add_(1, torch.from_numpy(voted)[nearest.indices], (nearest.values / _VOTE_TEMPERATURE).exp())
    commonest = np.bincount(voted).argmax()
    return {
        "knn_top1": float((votes.argmax(dim=1).numpy() == labels).mean()),
        "knn_chance": float((labels == commonest).mean()),
    }
