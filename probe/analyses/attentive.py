"""Attentive probe: one learnt query looks at the tokens of one block with several heads, and a linear classifier
reads what it saw.

Every pair of a learning rate and a weight decay is one probe and all are trained in one pass over the clips (as
V-JEPA 2's multihead evaluation does); learning rate, weight decay and number of epochs are chosen by macro-F1 on
sign groups held out inside the training signs, never on the clips that are reported, and the probe is trained again
on all training clips.

With a single query, queries and keys reduce to one vector per head, and values followed by a linear classifier to
one matrix per head: nothing is lost. Tokens are scaled so that their mean over a clip is standardised over the
training clips; the start, uniform attention, is thereby the linear probe on mean tokens. Deviation: no feed-forward
part behind the attention.

Shapes: P probes (grid x features), b clips of a batch, T tokens, D width, H heads, K classes at most.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probe.analyses.material import Material, Part
from probe.analyses.weighted_sum import NO_CLASS
from probe.config import AttentiveConfig
from probe.findings import Finding
from probe.fitting import UNSCORED, macro_f1

ANALYSIS = "attentive"
PATIENCE = 4  # epochs without a better probe after which training ends
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # AdamW, its usual values
FLAT = 1e-6  # deviation of a mean token below which a direction is constant
_SPREAD = 0.02  # of the first query vectors: heads must differ to become different


def attentive(material: Material) -> list[Finding]:
    """Balanced accuracy and its paired difference to the linear probe; features without tokens have none."""
    if material.tokens is None:
        return []
    tokens = material.tokens()
    x = torch.from_numpy(tokens.values)  # [N, T, D], float16
    predicted = np.full(material.linear.truth.shape, UNSCORED)
    for part in material.parts():
        settings = choose(x, part, material)
        final = Probes(settings, part.labels, x, part.train, material, part.number)
        for epoch in range(int(settings.epochs.max(initial=0))):
            material.alive()
            final.epoch(epoch)
        predicted[:, part.test] = final.predict(part.test)
    return material.classified(ANALYSIS, [predicted], layer=str(tokens.block))


@dataclass(frozen=True)
class Settings:
    """How each of P probes is trained."""

    feature: np.ndarray
    lr: np.ndarray
    decay: np.ndarray
    epochs: np.ndarray


def choose(x: Tensor, part: Part, material: Material) -> Settings:
    """For each feature the settings that read the held-out sign groups best; of equals the fewest epochs."""
    config: AttentiveConfig = material.config.attentive
    pairs = [(lr, decay) for lr in config.lrs for decay in config.weight_decays]
    count = len(part.labels)
    settings = Settings(
        np.tile(np.arange(count), len(pairs)),
        np.repeat([lr for lr, _ in pairs], count),
        np.repeat([decay for _, decay in pairs], count),
        np.full(count * len(pairs), config.epochs),
    )
    probes = Probes(settings, part.labels, x, part.fit, material, part.number)
    score, best = np.full(len(settings.lr), -1.0), np.ones(len(settings.lr), dtype=int)
    last = 0
    for epoch in range(config.epochs):
        material.alive()
        probes.epoch(epoch)
        guess = probes.predict(part.select)
        for p, f in enumerate(settings.feature.tolist()):
            value = macro_f1(part.labels[f, part.select], guess[p])
            if value > score[p] + 1e-12:
                score[p], best[p], last = value, epoch + 1, epoch
        if epoch - last >= PATIENCE:
            break
    chosen = [min(np.flatnonzero(settings.feature == f), key=lambda p: (-score[p], best[p], p)) for f in range(count)]
    return Settings(np.arange(count), settings.lr[chosen], settings.decay[chosen], best[chosen])


class Probes:
    """P probes trained together, each by AdamW with its own learning rate, weight decay and number of epochs.

    Args:
        settings: Of each probe.
        labels: `[F, N]`, -1 = missing; classes are those of the fold.
        x: Tokens of all clips, float16 `[N, T, D]`.
        rows: The clips to learn from.
        material: Gives heads, batch size, seed and device.
        fold: Seeds the start and the order of clips.
    """

    def __init__(
        self, settings: Settings, labels: np.ndarray, x: Tensor, rows: np.ndarray, material: Material, fold: int
    ) -> None:
        self.x, self.rows = x, rows
        pooled = x[torch.from_numpy(rows)].float().mean(1).double()
        deviation = pooled.std(0, correction=0)
        self.center = pooled.mean(0).float().to(material.device)
        flat = deviation <= FLAT
        self.scale = torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, deviation)).float().to(material.device)
        self.settings, self.config, self.device = settings, material.config.attentive, material.device
        self.seed = (material.seed, 11, fold)
        self.names = [np.unique(row[row >= 0]) for row in labels]
        codes = np.full(labels.shape, -1)
        for f, names in enumerate(self.names):
            known = labels[f] >= 0
            codes[f, known] = np.searchsorted(names, labels[f, known])
        self.codes = torch.from_numpy(codes[settings.feature]).to(self.device)  # [P, N]
        count, heads, width = len(settings.feature), self.config.heads, x.shape[2]
        classes = np.array([max(len(self.names[f]), 1) for f in settings.feature.tolist()])
        size = int(classes.max())
        self.closed = torch.arange(size, device=self.device) >= torch.from_numpy(classes).to(self.device)[:, None]
        start = np.random.default_rng([*self.seed, 0]).normal(size=(1, heads, width)) * _SPREAD
        query = torch.from_numpy(start.astype(np.float32)).to(self.device).repeat(count, 1, 1)
        self.parameters = [
            query.requires_grad_(),  # [P, H, D]
            torch.zeros(count, heads * width, size, device=self.device, requires_grad=True),
            torch.zeros(count, 1, size, device=self.device, requires_grad=True),
        ]
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = 0

    def logits(self, x: Tensor) -> Tensor:
        """`[P, b, K]` of tokens `[b, T, D]`."""
        query, weight, bias = self.parameters
        probes, heads, width = query.shape
        scores = query.reshape(-1, width) / width**0.5 @ x.transpose(1, 2)  # [b, P H, T]
        seen = scores.softmax(2) @ x  # [b, P H, D]
        seen = seen.reshape(len(x), probes, heads * width).transpose(0, 1)  # [P, b, H D]
        return torch.baddbmm(bias, seen, weight).masked_fill(self.closed[:, None], NO_CLASS)

    def tokens(self, rows: np.ndarray) -> Tensor:
        """Scaled tokens `[b, T, D]` of some clips."""
        return (self.x[torch.from_numpy(rows)].to(self.device).float() - self.center) * self.scale

    def epoch(self, number: int) -> None:
        """One pass over clips in an order of its own; probes that have had their epochs stand still."""
        order = np.random.default_rng([*self.seed, 1, number]).permutation(self.rows)
        active = torch.from_numpy(self.settings.epochs > number).to(self.device)
        for start in range(0, len(order), self.config.batch_size):
            batch = order[start : start + self.config.batch_size]
            codes = self.codes[:, torch.from_numpy(batch)]
            loss = functional.cross_entropy(
                self.logits(self.tokens(batch)).transpose(1, 2),
                codes,
                ignore_index=UNSCORED,
                reduction="none",
            )  # [P, b]
            mean = loss.sum(1) / (codes >= 0).sum(1).clamp(min=1)
            self._step(torch.autograd.grad(mean.sum(), self.parameters), active)

    def _step(self, gradients: tuple[Tensor, ...], active: Tensor) -> None:
        self.steps += 1
        lr, decay = (
            (torch.from_numpy(values).to(active.device).float() * active)[:, None, None]
            for values in (self.settings.lr, self.settings.decay)
        )
        with torch.no_grad():
            for parameter, gradient, (first, second) in zip(self.parameters, gradients, self.moments, strict=True):
                first.lerp_(gradient, 1 - _BETAS[0])
                second.lerp_(gradient * gradient, 1 - _BETAS[1])
                step = first / (1 - _BETAS[0] ** self.steps)
                step = step / ((second / (1 - _BETAS[1] ** self.steps)).sqrt() + _EPSILON)
                if parameter is not self.parameters[2]:  # the bias is not decayed
                    parameter.mul_(1 - lr * decay)
                parameter.sub_(lr * step)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Labels `[P, rows]`; -1 for a feature without any."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(rows), self.config.batch_size):
                batch = rows[start : start + self.config.batch_size]
                found.append(self.logits(self.tokens(batch)).argmax(2))
        choice = torch.cat(found, 1).cpu().numpy()
        names = [self.names[f] for f in self.settings.feature.tolist()]
        return np.stack(
            [own[row] if len(own) else np.full(len(row), UNSCORED) for own, row in zip(names, choice, strict=True)]
        )
