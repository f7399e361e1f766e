"""Weighted sum of layers (as SUPERB's featuriser, Yang et al. 2021, 2105.01051), learnt together with the probe.

Each layer first goes through layer norm without parameters, else the weights would follow the layers' scales, and is
standardised over a fold's training clips, so that C is on the scale of the linear probe's. Each feature has its own
softmax weights. A sum needs vectors of one width: of an encoder whose width grows, the blocks of the commonest width
are summed, the deeper where several are equally common. Objective and penalty as `probe/solver/linear.py`; C is
chosen on held-out sign groups inside the training signs.

Shapes: N clips, F features, L layers, D width, K classes at most.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probe.analyses.context import AnalysisContext, AnalysisFold
from probe.findings import Finding
from probe.fitting import UNSCORED, macro_f1, standardise
from probe.solver.linear import class_codes, decoded, eigenbasis
from probe.statistics.scores import NOT_CONVERGED

ANALYSIS = "weighted_sum"
PENALTIES = 5  # values of C, evenly spaced in the grid
CHOOSING, FITTING = 60, 600  # iterations of L-BFGS at most: at each C of the grid, and for the reported probe
CURVATURE = 0.1  # of the loss by a logit, typical p (1 - p); only scales steps
GRADIENT_TOLERANCE = 1e-3  # largest |gradient| of a converged probe
NO_CLASS = -1e9  # logit of a position beyond a feature's classes


def weighted_sum(context: AnalysisContext) -> list[Finding]:
    """Compute balanced accuracy, its paired difference to the single-layer probe, and the mean weight of each layer.

    Features with one layer, or without two of one width, have no sum.
    """
    used = summed_layers([layer.shape[1] for layer in context.layers])
    if len(used) < 2:
        return []
    normed = [_normed(context.layers[layer]) for layer in used]
    predicted = context.unscored()
    weights, missed, count = [], 0, 0
    for fold in context.folds():
        scaled = [torch.from_numpy(standardise(layer, fold.train)) for layer in normed]
        x = torch.stack(scaled, 1).to(context.device)  # [N, L, D]
        final = Mixer(x[fold.train], fold.labels[:, fold.train])
        gradient = final.minimise(choose_penalties(x, fold, context), FITTING)
        predicted[:, fold.test] = final.predict(x[fold.test])
        fitted = final.count > 1
        missed += int((gradient[fitted] > GRADIENT_TOLERANCE).sum())
        count += int(fitted.sum())
        weights.append(np.where(fitted[:, None], final.layer_weights(), np.nan))
    setting = "blocks " + ", ".join(context.block(layer) for layer in used)
    findings = context.classified(ANALYSIS, [predicted], setting=setting, layer="all")
    if count:
        findings += _weight_findings(context, used, np.nanmean(weights, axis=0))
    note = f"; {missed} of {count} probes {NOT_CONVERGED}" if missed else ""
    return [finding if not finding.method else finding.marked(note) for finding in findings]


def choose_penalties(x: Tensor, fold: AnalysisFold, context: AnalysisContext) -> np.ndarray:
    """Choose for each feature the C with the best macro-F1 on the held-out sign groups."""
    penalties = context.fit.coarse_grid(PENALTIES)
    labels = fold.labels
    mixer, held = Mixer(x[fold.fit], labels[:, fold.fit]), x[fold.select]
    best, score = np.zeros(len(labels), dtype=int), np.full(len(labels), -1.0)
    for number, c in enumerate(penalties):
        mixer.minimise(np.full(len(labels), c), CHOOSING)
        guess = mixer.predict(held)
        for f, row in enumerate(labels[:, fold.select]):
            value = macro_f1(row, guess[f])
            if value > score[f] + 1e-12:
                best[f], score[f] = number, value
        context.check_stop()
    return np.array(penalties)[best]


def _weight_findings(context: AnalysisContext, used: list[int], weights: np.ndarray) -> list[Finding]:
    """Make findings of the mean layer weights `[F, L]` of the features with scored clips."""
    rows = context.rows_of(context.linear.truth)
    return [
        context.finding(
            ANALYSIS,
            "layer_weight",
            feature,
            weights[f, position : position + 1],
            rows[feature],
            layer=context.block(layer),
            method="",
        )
        for f, feature in enumerate(context.targets.features)
        for position, layer in enumerate(used if rows[feature].any() else ())
    ]


def summed_layers(widths: list[int]) -> list[int]:
    """Return the layers of the commonest width, the later of equally common ones."""
    width = max(reversed(widths), key=widths.count)
    return [layer for layer, own in enumerate(widths) if own == width]


def _normed(layer: np.ndarray) -> np.ndarray:
    return functional.layer_norm(torch.from_numpy(layer), layer.shape[1:]).numpy()


@dataclass
class Mixer:
    """Probes of all features on weighted sums of layers, on one set of clips.

    Args:
        x: `[N, L, D]`.
        labels: `[F, N]`, -1 = missing.

    Attributes:
        classes: Sorted classes of each feature.
        count: Number of classes of each feature `[F]`; a feature with fewer than two is not fitted.
    """

    x: Tensor
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.classes, codes = class_codes(self.labels)
        self.count = np.array([len(own) for own in self.classes])
        features, device = len(self.labels), self.x.device
        self.codes = torch.from_numpy(codes).to(device)
        self.known = torch.from_numpy((self.labels >= 0).sum(1)).clamp(min=1).to(device)
        size = max(int(self.count.max(initial=1)), 1)
        places = torch.arange(size, device=device)
        self.absent = places >= torch.from_numpy(self.count).clamp(min=1).to(device)[:, None]  # [F, K]
        # Layers are centred (biases absorb that) and rotated into the eigenbasis of their mean, where `minimise` can
        # scale every direction separately; neither changes the objective.
        self.center = self.x.mean(0)
        variance, basis = eigenbasis(self.x.mean(1) - self.center.mean(0), None)
        self.basis, self.variance = basis, variance.to(self.x.dtype)
        self.rotated = (self.x - self.center) @ basis
        self.mix = torch.zeros(features, self.x.shape[1], device=device, requires_grad=True)
        self.weight = torch.zeros(features, size, len(variance), device=device)
        self.bias = torch.zeros(features, size, device=device, requires_grad=True)

    def logits(self, x: Tensor) -> Tensor:
        """Return logits `[F, N, K]` of clips `[N, L, D]`."""
        return self._logits((x - self.center) @ self.basis, self.weight)

    def _logits(self, rotated: Tensor, weight: Tensor) -> Tensor:
        summed = torch.einsum("nld,fl->fnd", rotated, self.mix.softmax(1))
        z = torch.baddbmm(self.bias[:, None], summed, weight.transpose(1, 2))
        return z.masked_fill(self.absent[:, None], NO_CLASS)

    def minimise(self, inverse_penalty: np.ndarray, iterations: int) -> np.ndarray:
        """Fit at one C for each feature, from the current weights; return the largest |gradient| of each feature."""
        penalty = 1 / (torch.from_numpy(inverse_penalty).to(self.x) * self.known)  # [F]
        step = (penalty[:, None] + CURVATURE * self.variance).rsqrt()[:, None]  # [F, 1, r]
        scaled = (self.weight.detach() / step).requires_grad_()
        parameters = [self.mix, scaled, self.bias]

        def objective() -> Tensor:
            loss = functional.cross_entropy(
                self._logits(self.rotated, scaled * step).transpose(1, 2),
                self.codes,
                ignore_index=UNSCORED,
                reduction="none",
            )  # [F, N]
            size = (scaled * step).flatten(1).pow(2).sum(1) / 2
            return (loss.sum(1) / self.known + penalty * size).sum()

        solver = torch.optim.LBFGS(
            parameters,
            max_iter=iterations,
            tolerance_grad=GRADIENT_TOLERANCE / 4,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            solver.zero_grad()
            value = objective()
            value.backward()
            return value

        solver.step(closure)
        by_mix, by_scaled, by_bias = torch.autograd.grad(objective(), parameters)
        self.weight = (scaled * step).detach()
        steep = [g.flatten(1).abs().amax(1) for g in (by_mix, by_scaled / step, by_bias)]
        return np.asarray(torch.stack(steep).amax(0).cpu().numpy())

    def predict(self, x: Tensor) -> np.ndarray:
        """Predict labels `[F, N]`; -1 for a feature without any."""
        with torch.inference_mode():
            choice = self.logits(x).argmax(2).cpu().numpy()
        return decoded(self.classes, choice)

    def layer_weights(self) -> np.ndarray:
        """Return the softmax weight of each layer `[F, L]`."""
        return self.mix.softmax(1).detach().cpu().numpy()
