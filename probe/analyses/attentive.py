"""Attentive probe: one learnt query attends to the tokens of one block with several heads, before a linear classifier.

Every pair of a learning rate and a weight decay is one probe, and all are trained in one pass over the clips (as in
V-JEPA 2's multihead evaluation); learning rate, weight decay and number of epochs are chosen by macro-F1 on sign
groups held out inside the training signs, never on the reported clips, and the probe is then trained on all training
clips.

With a single query, queries and keys reduce to one vector per head, and values followed by a linear classifier to one
matrix per head, without loss. Tokens are scaled so that their mean over a clip is standardised over the training
clips; uniform attention, the initial state, is thereby the linear probe on mean tokens. Deviation: no feed-forward
layer after the attention.

Shapes: P probes (grid x features), b clips of a batch, T tokens, D width, H heads, K classes at most.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probe.analyses.context import AnalysisContext, AnalysisFold
from probe.analyses.weighted_sum import NO_CLASS
from probe.config import AttentiveConfig
from probe.findings import Finding
from probe.fitting import UNSCORED, macro_f1
from probe.solver.linear import class_codes, decoded

ANALYSIS = "attentive"
PATIENCE = 4  # epochs without a better probe after which training ends
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # AdamW, its usual values
FLAT = 1e-6  # deviation of a mean token below which a direction is constant
_SPREAD = 0.02  # of the initial query vectors: heads that start equal would stay equal


def attentive(context: AnalysisContext) -> list[Finding]:
    """Compute balanced accuracy and its paired difference to the linear probe; nothing without token features."""
    if context.tokens is None:
        return []
    tokens = context.tokens()
    x = torch.from_numpy(tokens.values)  # [N, T, D], float16
    predicted = context.unscored()
    for fold in context.folds():
        settings = choose_settings(x, fold, context)
        final = Probes(settings, fold.labels, x, fold.train, context, fold.number)
        for epoch in range(int(settings.epochs.max(initial=0))):
            context.check_stop()
            final.epoch(epoch)
        predicted[:, fold.test] = final.predict(fold.test)
    return context.classified(ANALYSIS, [predicted], layer=str(tokens.block))


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of each of P probes."""

    feature: np.ndarray
    lr: np.ndarray
    decay: np.ndarray
    epochs: np.ndarray


def choose_settings(x: Tensor, fold: AnalysisFold, context: AnalysisContext) -> Settings:
    """Choose for each feature the settings with the best macro-F1 on the held-out sign groups, then fewest epochs."""
    config: AttentiveConfig = context.config.attentive
    pairs = [(lr, decay) for lr in config.lrs for decay in config.weight_decays]
    count = len(fold.labels)
    settings = Settings(
        np.tile(np.arange(count), len(pairs)),
        np.repeat([lr for lr, _ in pairs], count),
        np.repeat([decay for _, decay in pairs], count),
        np.full(count * len(pairs), config.epochs),
    )
    probes = Probes(settings, fold.labels, x, fold.fit, context, fold.number)
    score, best = np.full(len(settings.lr), -1.0), np.ones(len(settings.lr), dtype=int)
    last = 0
    for epoch in range(config.epochs):
        context.check_stop()
        probes.epoch(epoch)
        guess = probes.predict(fold.select)
        for p, f in enumerate(settings.feature.tolist()):
            value = macro_f1(fold.labels[f, fold.select], guess[p])
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
        rows: The training clips.
        context: Heads, batch size, seed and device.
        fold: Number of the fold; seeds the initialisation and the order of clips.
    """

    def __init__(
        self, settings: Settings, labels: np.ndarray, x: Tensor, rows: np.ndarray, context: AnalysisContext, fold: int
    ) -> None:
        self.x, self.rows = x, rows
        pooled = x[torch.from_numpy(rows)].float().mean(1).double()
        deviation = pooled.std(0, correction=0)
        self.center = pooled.mean(0).float().to(context.device)
        flat = deviation <= FLAT
        self.scale = torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, deviation)).float().to(context.device)
        self.settings, self.config, self.device = settings, context.config.attentive, context.device
        self.seed = (context.seed, 11, fold)
        classes, codes = class_codes(labels)
        self.classes = [classes[f] for f in settings.feature.tolist()]
        self.codes = torch.from_numpy(codes[settings.feature]).to(self.device)  # [P, N]
        count, heads, width = len(settings.feature), self.config.heads, x.shape[2]
        sizes = torch.tensor([max(len(own), 1) for own in self.classes], device=self.device)
        size = int(sizes.max())
        self.absent = torch.arange(size, device=self.device) >= sizes[:, None]
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
        """Return logits `[P, b, K]` of tokens `[b, T, D]`."""
        query, weight, bias = self.parameters
        probes, heads, width = query.shape
        scores = query.reshape(-1, width) / width**0.5 @ x.transpose(1, 2)  # [b, P H, T]
        attended = scores.softmax(2) @ x  # [b, P H, D]
        attended = attended.reshape(len(x), probes, heads * width).transpose(0, 1)  # [P, b, H D]
        return torch.baddbmm(bias, attended, weight).masked_fill(self.absent[:, None], NO_CLASS)

    def tokens(self, rows: np.ndarray) -> Tensor:
        """Return the scaled tokens `[b, T, D]` of some clips."""
        return (self.x[torch.from_numpy(rows)].to(self.device).float() - self.center) * self.scale

    def epoch(self, number: int) -> None:
        """Train for one pass over the clips in random order; probes past their number of epochs stay fixed."""
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
        """Predict labels `[P, rows]`; -1 for a feature without any."""
        choices = []
        with torch.inference_mode():
            for start in range(0, len(rows), self.config.batch_size):
                batch = rows[start : start + self.config.batch_size]
                choices.append(self.logits(self.tokens(batch)).argmax(2))
        return decoded(self.classes, torch.cat(choices, 1).cpu().numpy())
