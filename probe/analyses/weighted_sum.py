"""Weighted sum of layers (as SUPERB's featuriser, Yang et al. 2021, 2105.01051): the probe learns, together with its
weights, how much of each layer to read.

Each layer goes through layer norm without parameters first, else the weights would follow the layers' scales, and is
standardised over a fold's training clips, so that C means what it means to the linear probe. Each feature has weights
of its own, a softmax. A sum needs vectors of one width: of an encoder whose width grows, the blocks of the commonest
width take part, the deeper where several are equally common. Objective and penalty as `probe/solver/linear.py`; C is
chosen on held-out sign groups inside the training signs.

Shapes: N clips, F features, L layers, D width, K classes at most.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probe.analyses.material import Material
from probe.findings import Finding
from probe.fitting import UNSCORED, macro_f1, standardise
from probe.solver.linear import eigenbasis

ANALYSIS = "weighted_sum"
PENALTIES = 5  # of the grid, evenly spread
CHOOSING, FITTING = 60, 600  # iterations of L-BFGS at most: at each C of the grid, and for the probe that is reported
CURVATURE = 0.1  # of the loss by a logit, typical p (1 - p); only scales steps
GRADIENT_TOLERANCE = 1e-3  # largest |gradient|, as an unconverged probe is marked
NO_CLASS = -1e9  # logit of a place beyond a feature's classes


def weighted_sum(material: Material) -> list[Finding]:
    """Balanced accuracy, its paired difference to the linear probe on one layer, and the mean weight of each layer.

    Features with one layer, or without two of one width, have no sum.
    """
    used = summed_layers([layer.shape[1] for layer in material.layers])
    if len(used) < 2:
        return []
    normed = [_normed(material.layers[layer]) for layer in used]
    predicted = np.full(material.linear.truth.shape, UNSCORED)
    shares, missed, count = [], 0, 0
    grid = material.fit.inverse_penalties
    penalties = sorted({grid[i] for i in np.linspace(0, len(grid) - 1, PENALTIES).round().astype(int)})
    for part in material.parts():
        labels = part.labels
        scaled = [torch.from_numpy(standardise(layer, part.train)) for layer in normed]
        x = torch.stack(scaled, 1).to(material.device)  # [N, L, D]
        learnt, held = Mixer(x[part.fit], labels[:, part.fit]), x[part.select]
        best, score = np.zeros(len(labels), dtype=int), np.full(len(labels), -1.0)
        for number, c in enumerate(penalties):
            learnt.minimise(np.full(len(labels), c), CHOOSING)
            guess = learnt.predict(held)
            for f, row in enumerate(labels[:, part.select]):
                value = macro_f1(row, guess[f])
                if value > score[f] + 1e-12:
                    best[f], score[f] = number, value
            material.alive()
        final = Mixer(x[part.train], labels[:, part.train])
        gradient = final.minimise(np.array(penalties)[best], FITTING)
        predicted[:, part.test] = final.predict(x[part.test])
        fitted = final.classes > 1
        missed += int((gradient[fitted] > GRADIENT_TOLERANCE).sum())
        count += int(fitted.sum())
        shares.append(np.where(fitted[:, None], final.shares(), np.nan))
    setting = "blocks " + ", ".join(material.block(layer) for layer in used)
    found = material.classified(ANALYSIS, [predicted], setting=setting, layer="all")
    rows = material.rows_of(material.linear.truth)
    mean = np.nanmean(shares, axis=0) if count else np.zeros((0, 0))
    for f, feature in enumerate(material.targets.features):
        for position, layer in enumerate(used if rows[feature].any() else ()):
            found.append(
                material.finding(
                    ANALYSIS,
                    "layer_weight",
                    feature,
                    mean[f, position : position + 1],
                    rows[feature],
                    layer=material.block(layer),
                    method="",
                )
            )
    mark = f"; {missed} of {count} probes NOT CONVERGED" if missed else ""
    return [finding if not finding.method else finding.marked(mark) for finding in found]


def summed_layers(widths: list[int]) -> list[int]:
    """Layers of the commonest width, the later of equally common ones."""
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
        classes: Classes of each feature `[F]`; a feature with fewer than two learns nothing.
    """

    x: Tensor
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.names = [np.unique(row[row >= 0]) for row in self.labels]
        self.classes = np.array([len(names) for names in self.names])
        count, device = len(self.labels), self.x.device
        codes = np.full(self.labels.shape, -1)
        for f, names in enumerate(self.names):
            known = self.labels[f] >= 0
            codes[f, known] = np.searchsorted(names, self.labels[f, known])
        self.codes = torch.from_numpy(codes).to(device)
        self.known = torch.from_numpy((self.labels >= 0).sum(1)).clamp(min=1).to(device)
        size = max(int(self.classes.max(initial=1)), 1)
        places = torch.arange(size, device=device)
        self.closed = places >= torch.from_numpy(self.classes).clamp(min=1).to(device)[:, None]  # [F, K]
        # Layers are centred (biases take that up) and rotated into the eigenbasis of their mean, where `minimise` can
        # give every direction a step of its own; neither changes what is minimised.
        self.center = self.x.mean(0)
        variance, basis = eigenbasis(self.x.mean(1) - self.center.mean(0), None)
        self.basis, self.variance = basis, variance.to(self.x.dtype)
        self.rotated = (self.x - self.center) @ basis
        self.mix = torch.zeros(count, self.x.shape[1], device=device, requires_grad=True)
        self.weight = torch.zeros(count, size, len(variance), device=device)
        self.bias = torch.zeros(count, size, device=device, requires_grad=True)

    def logits(self, x: Tensor) -> Tensor:
        """`[F, N, K]` of clips `[N, L, D]`."""
        return self._logits((x - self.center) @ self.basis, self.weight)

    def _logits(self, rotated: Tensor, weight: Tensor) -> Tensor:
        summed = torch.einsum("nld,fl->fnd", rotated, self.mix.softmax(1))
        z = torch.baddbmm(self.bias[:, None], summed, weight.transpose(1, 2))
        return z.masked_fill(self.closed[:, None], NO_CLASS)

    def minimise(self, inverse_penalty: np.ndarray, iterations: int) -> np.ndarray:
        """Fit at one C for each feature, from where it stands; largest |gradient| of each feature."""
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
        """Labels `[F, N]`; -1 for a feature without any."""
        with torch.inference_mode():
            choice = self.logits(x).argmax(2).cpu().numpy()
        rows = [
            names[row] if len(names) else np.full(len(row), UNSCORED)
            for names, row in zip(self.names, choice, strict=True)
        ]
        return np.stack(rows)

    def shares(self) -> np.ndarray:
        """Weight of each layer `[F, L]`."""
        return self.mix.softmax(1).detach().cpu().numpy()
