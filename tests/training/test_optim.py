"""Learning rates, parameter groups, clipping and weight decay, beside the originals'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from islr.config import validate
from islr.errors import UserError
from islr.models import create_model
from islr.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    schedule_description,
    set_weight_decay,
)


def test_schedule_warms_up_and_decays() -> None:
    config = OptimConfig(lr=2.0, min_lr=0.2, start_lr=0.1, epochs=10, warmup_epochs=2, batch_size=4)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 1) == pytest.approx(1.05)
    assert learning_rate(config, 2) == pytest.approx(2.0)
    assert learning_rate(config, 6) == pytest.approx(1.1)
    assert learning_rate(config, 10) == pytest.approx(0.2)
    scaled = config.model_copy(update={"lr_batch": 2})
    assert learning_rate(scaled, 6) == pytest.approx(2.2)
    assert schedule_description(config, 1) == "batch 4, learning rate 2, 10 epochs"
    assert (
        schedule_description(scaled, 2) == "batch 4 = 2 processes x 1 parts x 2, learning rate 4 = 2 x 4 / 2, 10 epochs"
    )


@pytest.mark.oracle
@pytest.mark.parametrize("stage", ["ft", "pt"])
def test_schedule_is_the_reference(oracles: Path, stage: str) -> None:
    path = oracles / "video" / "optim.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    recorded = json.loads(path.read_text())[f"slowfast_{stage}_S_lr"]
    # The published configurations (MViTv2-S, one shard): epochs, warm-up, base learning rate.
    epochs, warmup, base = {"ft": (100, 20, 6e-4), "pt": (300, 10, 1e-4)}[stage]
    config = OptimConfig(lr=base, epochs=epochs, warmup_epochs=warmup, batch_size=1)
    for epoch, rate in recorded.items():
        assert learning_rate(config, float(epoch)) == pytest.approx(rate, rel=1e-6), epoch


def test_learning_rate_falls_in_steps() -> None:
    config = OptimConfig(lr=1.0, lr_steps=(4, 6), epochs=8, warmup_epochs=2, start_lr=0.5, batch_size=4, lr_batch=2)
    rates = [learning_rate(config, epoch) for epoch in (0, 1, 2, 3.99, 4, 5.9, 6, 8)]
    assert rates == pytest.approx([1.0, 1.5, 2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
    for steps in ((1, 4), (6, 4), (4, 8)):
        with pytest.raises(UserError, match="lr_steps must rise"):
            validate(OptimConfig, config.model_dump() | {"lr_steps": steps}, "here")


def test_sgd_steps_with_momentum() -> None:
    """Two steps on a constant gradient, by hand: v = m v + g, w -= lr (g + m v) with Nesterov's step, else lr v."""
    for nesterov, expected in ((False, 1 + 1.5), (True, 1.5 + 1.75)):
        optim = OptimConfig(
            optimizer="sgd", momentum=0.5, nesterov=nesterov, lr=0.1, epochs=1, batch_size=1, weight_decay=0
        )
        layer = nn.Linear(1, 1, bias=False)
        start = layer.weight.item()
        optimizer = build_optimizer(optim, parameter_groups(layer, optim))
        for _ in range(2):
            layer.weight.grad = torch.ones(1, 1)
            optimizer.step()
        assert start - layer.weight.item() == pytest.approx(0.1 * expected, rel=1e-5)
    with pytest.raises(UserError, match="nesterov is for optimizer sgd"):
        validate(OptimConfig, {"lr": 1, "epochs": 1, "batch_size": 1, "nesterov": True}, "here")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"optimizer": "sgd", "betas": (0.9, 0.95)}, "betas"),
        ({"optimizer": "sgd", "eps": 1e-6}, "eps"),
        ({"momentum": 0.5}, "momentum"),
        ({"lr_steps": (2, 3), "min_lr": 0.0}, "min_lr"),
        ({"clip_mode": "parameter"}, "clip_mode"),
    ],
)
def test_an_option_that_cannot_act_is_refused(options: dict[str, Any], key: str) -> None:
    required = {"lr": 1, "epochs": 4, "batch_size": 1}
    with pytest.raises(UserError, match=f"{key} acts only with"):
        validate(OptimConfig, required | options, "here")
    defaults = OptimConfig.model_validate(required | {"optimizer": "sgd", "lr_steps": (2, 3)}).model_dump()
    assert validate(OptimConfig, defaults, "a run's config.yaml").lr_steps == (2, 3)


def test_groups_decay_weights_by_layer() -> None:
    encoder = create_model("mvit_tiny")
    optim = OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(encoder, optim, encoder.layer_of, encoder.num_layers)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in encoder.named_parameters())
    of = {name: group for group in groups for name in group["names"]}
    deepest = [name for name in names if encoder.layer_of(name) == 0]
    assert deepest
    assert all(of[name]["lr_scale"] == 0.5 ** (encoder.num_layers - 1) for name in deepest)
    for name, parameter in encoder.named_parameters():
        token = name.endswith("token")
        assert of[name]["weight_decay"] == (0.3 if parameter.ndim > 1 or token else 0.0), name


@pytest.mark.parametrize(("mode", "expected"), [("global", [0.6, 0.8]), ("parameter", [1.0, 1.0])])
def test_gradients_are_clipped_together_or_one_by_one(mode: str, expected: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optim = OptimConfig(lr=1.0, epochs=1, batch_size=1, clip_grad=1.0, clip_mode=mode)
    assert clip_gradients(parameters, optim).item() == pytest.approx(5.0)
    found = [parameter.grad.norm().item() for parameter in parameters[:2] if parameter.grad is not None]
    assert found == pytest.approx(expected, rel=1e-5)
    assert parameters[2].grad is None
    unlimited = optim.model_copy(update={"clip_grad": None})
    assert clip_gradients(parameters, unlimited).item() == pytest.approx(sum(x * x for x in expected) ** 0.5, rel=1e-5)
    assert [parameter.grad.norm().item() for parameter in parameters[:2]] == found  # type: ignore[union-attr]


def test_weight_decay_moves_to_its_end() -> None:
    layer = nn.Linear(2, 2)
    plain = OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=0.1)
    moving = plain.model_copy(update={"weight_decay_end": 0.5})
    for optim, expected in ((plain, [0.1, 0.1, 0.1]), (moving, [0.1, 0.3, 0.5])):
        optimizer = build_optimizer(optim, parameter_groups(layer, optim))
        for progress, value in zip((0.0, 0.5, 1.0), expected, strict=True):
            set_weight_decay(optimizer, optim, progress)
            decay = {tuple(group["params"][0].shape): group["weight_decay"] for group in optimizer.param_groups}
            assert decay[2, 2] == pytest.approx(value)
            assert decay[2,] == 0
