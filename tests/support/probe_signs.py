"""Small corpora with planted or absent phonology, and the analyses of their features."""

from functools import cache
from typing import Any

import numpy as np

from probe.analyses import ANALYSES, AnalysisContext
from probe.config import AnalysesConfig, AttentiveConfig, FitConfig
from probe.features.tokens import Tokens
from probe.findings import Finding
from probe.fitting import run_split
from probe.splits import unseen_sign
from probe.statistics.bootstrap import BootstrapDraws
from probe.targets import Targets, make_targets

SIGNS, SIGNERS, WIDTH = 48, 4, 24
FIT = FitConfig(inverse_penalties=(1e-3, 1e-2, 1e-1), min_train_signs=2, min_test_signs=1, permutations=0)
SETTINGS = AnalysesConfig(
    run=tuple(ANALYSES),
    orders=1,
    few_shot_draws=2,
    attentive=AttentiveConfig(heads=2, lrs=(0.01, 0.03), weight_decays=(0.01,), epochs=12, batch_size=32),
)
# Few choices and short training, for what must hold exactly however well a probe is fitted.
FEW_CHOICES = FIT.model_copy(update={"inverse_penalties": (1e-2, 1e-1)})
SHORT = SETTINGS.model_copy(
    update={
        "few_shot_draws": 1,
        "attentive": AttentiveConfig(heads=2, lrs=(0.01, 0.03), weight_decays=(0.01,), epochs=3, batch_size=64),
    }
)
TRAINED = ("knn", "attentive", "weighted_sum", "few_shot", "erasure")
CLASSES = {"Handshape": 3, "MajorLocation": 2}


@cache
def corpus(seed: int = 0) -> Targets:
    """Every sign by every signer; two features dealt evenly and independently over signs."""
    rng = np.random.default_rng(seed)
    sign, signer = np.repeat(np.arange(SIGNS), SIGNERS), np.tile(np.arange(SIGNERS), SIGNS)
    labels = rng.permutation(np.arange(SIGNS)) % 6
    features = {"Handshape": (labels % 3)[sign], "MajorLocation": (labels // 3)[sign]}
    return make_targets(
        clip_ids=[f"c{i:04d}" for i in range(len(sign))],
        features=features,
        classes={name: [f"{name}{i}" for i in range(k)] for name, k in CLASSES.items()},
        signs=[f"s{i:03d}" for i in sign],
        signers=[f"p{i}" for i in signer],
    )


def planted(targets: Targets, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Each label along a direction of its own, with noise of signs and clips."""
    rng = np.random.default_rng([seed, 1])
    x = sum(rng.normal(size=(3, WIDTH))[labels] for labels in targets.features.values())
    sign = np.unique(targets.signs, return_inverse=True)[1]
    return (x + noise * (rng.normal(size=(SIGNS, WIDTH))[sign] + rng.normal(size=(len(targets), WIDTH)))).astype("f4")


def identity(targets: Targets, seed: int = 0) -> np.ndarray:
    """A direction for each sign, related to no label."""
    rng = np.random.default_rng([seed, 2])
    vectors = rng.normal(size=(SIGNS, WIDTH))[np.unique(targets.signs, return_inverse=True)[1]]
    return (vectors + 0.1 * rng.normal(size=vectors.shape)).astype(np.float32)


def tokens_of(x: np.ndarray) -> Tokens:
    """Four tokens, the vector in one of them that differs from clip to clip."""
    rng = np.random.default_rng(3)
    values = 0.3 * rng.normal(size=(len(x), 4, x.shape[1]))
    values[np.arange(len(x)), rng.integers(0, 4, len(x))] += x
    return Tokens(tuple(map(str, range(len(x)))), values.astype(np.float16), 1)


def context_of(x: np.ndarray, targets: Targets | None = None, **changes: Any) -> AnalysisContext:
    targets = targets or corpus()
    split = unseen_sign(targets, 3, 0.25, 0)
    present = changes.pop("present", np.ones(len(targets), dtype=bool))
    rng = np.random.default_rng(4)
    fit = changes.pop("fit", FIT)
    layers = changes.pop("layers", [rng.normal(size=x.shape).astype("f4"), x])
    return AnalysisContext(
        layers=layers,
        present=present,
        targets=targets,
        lexicon=changes.pop("lexicon", targets.features),
        split=split,
        bootstrap=BootstrapDraws(targets, split, 100, 0),
        linear=run_split(layers, present, targets, split, fit),
        fit=fit,
        config=changes.pop("config", SETTINGS),
        tokens=lambda: tokens_of(x),
        **changes,
    )


def value(found: list[Finding], metric: str, feature: str = "Handshape", **wanted: str) -> Finding:
    (one,) = [
        f
        for f in found
        if f.metric == metric and f.feature == feature and all(getattr(f, k) == v for k, v in wanted.items())
    ]
    return one


def point(found: list[Finding], metric: str, feature: str = "Handshape", **wanted: str) -> float:
    return float(value(found, metric, feature, **wanted).values[0])


@cache
def result(analysis: str, features: str, seed: int = 0) -> list[Finding]:
    make = {"planted": planted, "identity": identity}[features]
    return ANALYSES[analysis](context_of(make(corpus(seed), seed=seed), corpus(seed)))
