"""Attentive probe and weighted sum of layers: each finds what the mean or the last layer hides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.probe_signs import (
    SETTINGS,
    WIDTH,
    context_of,
    corpus,
    planted,
    point,
    result,
    value,
)

from probe.analyses import ANALYSES
from probe.analyses.weighted_sum import Mixer, summed_layers
from probe.config import AttentiveConfig
from probe.features.tokens import Tokens
from probe.solver.linear import LinearProbes


def test_attention_finds_the_token_that_the_mean_dilutes() -> None:
    """The label is in one token of twelve, marked by a direction of its own."""
    targets = corpus()
    rng = np.random.default_rng(7)
    values = rng.normal(size=(len(targets), 12, WIDTH))
    here = np.arange(len(targets)), rng.integers(0, 12, len(targets))
    values[here] = 1.2 * planted(targets, noise=0.1)
    values[..., 0] = 0
    values[..., 0][here] = 8
    made = context_of(values.mean(1).astype("f4"), layers=[values.mean(1).astype("f4")])
    settings = AttentiveConfig(heads=2, lrs=(0.03,), weight_decays=(0.01,), epochs=25, batch_size=32)
    made = replace(
        made,
        config=SETTINGS.model_copy(update={"attentive": settings}),
        tokens=lambda: Tokens(tuple(targets.clip_ids.tolist()), values.astype(np.float16), 0),
    )
    found = ANALYSES["attentive"](made)
    gain = value(found, "over_linear")
    assert gain.values[0] > 0.1
    assert np.percentile(gain.values[1:], 2.5) > 0
    assert gain.layer == "0"


def test_the_weighted_sum_reads_the_informative_layer() -> None:
    found = result("weighted_sum", "planted")
    assert point(found, "layer_weight", layer="1") > 0.8
    assert point(found, "layer_weight", layer="0") + point(found, "layer_weight", layer="1") == pytest.approx(1)
    assert not any("NOT CONVERGED" in f.method for f in found)
    assert summed_layers([48, 48, 96, 96]) == [2, 3]
    assert summed_layers([48, 96, 96, 192]) == [1, 2]
    assert ANALYSES["weighted_sum"](context_of(planted(corpus()), layers=[planted(corpus())])) == []


def test_a_sum_of_one_layer_twice_is_the_linear_probe() -> None:
    """Then the softmax does nothing and the objective is scikit-learn's, which `LinearProbes` is tested against."""
    targets = corpus()
    x = torch.from_numpy(planted(targets, noise=1.0))
    mixer = Mixer(torch.stack([x, x], 1), targets.labels)
    assert (mixer.minimise(np.full(2, 0.1), 200) < 1e-3).all()
    probes = LinearProbes(x, targets.labels)
    expected = probes.predict(probes.fit(0.1), probes.project(x))
    assert (mixer.predict(torch.stack([x, x], 1)) == expected).mean() > 0.99
