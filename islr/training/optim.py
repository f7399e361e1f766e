"""Parameter groups, layer-wise decay and the learning-rate schedule. The learning rate is scaled here, nowhere else."""

import math
from collections.abc import Callable, Collection, Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from islr.config import Config, refuse_idle

STEP_FACTOR = 0.1  # of the learning rate at each of `lr_steps`


class OptimConfig(Config):
    """AdamW or SGD, with a linear warm-up and then a cosine or steps.

    With `lr_batch` set, `lr`, `min_lr` and `start_lr` are stated for that batch size and scale linearly with
    `batch_size` (Goyal et al. 2017); left empty, they are used as written.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    lr_batch: int | None = Field(None, ge=1, description="batch size that the learning rates are stated for")
    min_lr: float = Field(1e-6, ge=0)
    start_lr: float = Field(1e-6, ge=0, description="learning rate at the first warm-up step")
    lr_steps: tuple[float, ...] = Field(
        (), description="epochs at which the learning rate falls to a tenth; none = half a cosine to min_lr"
    )
    epochs: float = Field(gt=0)
    warmup_epochs: float = Field(0, ge=0)
    batch_size: int = Field(ge=1, description="clips per optimiser step over all processes")
    accumulate: int = Field(1, ge=1, description="parts into which a step is cut to save memory")
    weight_decay: float = Field(0.05, ge=0)
    weight_decay_end: float | None = Field(
        None, ge=0, description="value at the last step, reached by a cosine; none = constant"
    )
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    nesterov: bool = Field(False, description="Nesterov's momentum, with SGD")
    clip_grad: float | None = Field(None, gt=0, description="largest L2 norm of the gradient")
    clip_mode: Literal["global", "parameter"] = Field(
        "global", description="clip the norm over all parameters, or that of each one"
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="learning-rate factor per layer below the head")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights used for evaluation")

    @model_validator(mode="after")
    def _possible(self) -> "OptimConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves no epoch of the {self.epochs:g} to train")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}")
        steps = (self.warmup_epochs, *self.lr_steps, self.epochs)
        if self.lr_steps and any(low >= high for low, high in pairwise(steps)):
            raise ValueError(f"lr_steps must rise from the end of the warm-up to epoch {self.epochs:g}")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("nesterov is for optimizer sgd with momentum")
        for key in ("betas", "eps"):
            refuse_idle(self, key, self.optimizer == "adamw", "optimizer: adamw")
        refuse_idle(self, "momentum", self.optimizer == "sgd", "optimizer: sgd")
        refuse_idle(self, "min_lr", not self.lr_steps, "a cosine, which is without lr_steps")
        refuse_idle(self, "clip_mode", self.clip_grad is not None, "clip_grad")
        return self

    @property
    def scale(self) -> float:
        """Return the linear scaling factor of all learning rates."""
        return self.batch_size / self.lr_batch if self.lr_batch else 1.0


def cosine(start: float, end: float, progress: float) -> float:
    """Return the value of half a cosine from `start` to `end` at `progress` 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def schedule_description(config: OptimConfig, processes: int) -> str:
    """Describe the batch and the learning rate of a run, as configured and as used."""
    part = config.batch_size // (processes * config.accumulate)
    batch = f"batch {config.batch_size}"
    if part != config.batch_size:
        batch += f" = {processes} processes x {config.accumulate} parts x {part}"
    rate = f"learning rate {config.lr * config.scale:g}"
    if config.lr_batch:
        rate += f" = {config.lr:g} x {config.batch_size} / {config.lr_batch}"
    return f"{batch}, {rate}, {config.epochs:g} epochs"


def learning_rate(config: OptimConfig, epoch: float) -> float:
    """Return the learning rate at a fractional epoch: linear warm-up, then half a cosine to `min_lr`, or `lr_steps`."""
    low, high, start = (config.scale * value for value in (config.min_lr, config.lr, config.start_lr))
    if epoch < config.warmup_epochs:
        return start + (high - start) * epoch / config.warmup_epochs
    if config.lr_steps:
        return high * STEP_FACTOR ** sum(epoch >= step for step in config.lr_steps)
    progress = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    return cosine(high, low, progress)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter.

    It spares biases and norms but not tokens, as SlowFast's MViT recipes do, and Swin's tables of position biases, as
    Swin's own recipes and BEVT's do.
    """
    last = name.rpartition(".")[2]
    return (parameter.ndim > 1 and last != "relative_position_bias_table") or "token" in last


def parameter_groups(
    module: nn.Module,
    config: OptimConfig,
    layer_of: Callable[[str], int] | None = None,
    num_layers: int = 1,
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and layer.

    Args:
        module: Its frozen parameters are left out; it may name some that weight decay spares in `no_weight_decay`.
        config: Gives `weight_decay` and `layer_decay`.
        layer_of: Parameter name -> layer, 0 the embedding, `num_layers - 1` the head. None = no layer decay.
        num_layers: Number of layers; layer l learns at `layer_decay ** (num_layers - 1 - l)` (BEiT; SlowFast FT).

    Returns:
        Optimiser groups with the extra keys `lr_scale`, `decays` and `names`.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    spared: Collection[str] = getattr(module, "no_weight_decay", ())
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = decays(name, parameter) and name not in spared
        layer = num_layers - 1 if layer_of is None else layer_of(name)
        scale = config.layer_decay ** (num_layers - 1 - layer)
        fresh: dict[str, Any] = {"params": [], "names": [], "decays": decayed, "lr_scale": scale}
        group = groups.setdefault((decayed, scale), fresh | {"weight_decay": config.weight_decay if decayed else 0.0})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the configured optimiser over `groups`; `names` stays out of its state."""
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        group.setdefault("decays", group.get("weight_decay", 0.0) > 0)
    plain = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if config.optimizer == "sgd":
        return torch.optim.SGD(plain, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    return torch.optim.AdamW(plain, lr=config.lr, betas=config.betas, eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set each group's learning rate to `value` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, config: OptimConfig, progress: float) -> None:
    """Set the scheduled weight decay, in the groups that have any, at `progress` 0 to 1."""
    if config.weight_decay_end is None:
        return
    for group in optimizer.param_groups:
        if group["decays"]:
            group["weight_decay"] = cosine(config.weight_decay, config.weight_decay_end, progress)


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Tensor:
    """Clip gradients in place as `clip_grad` and `clip_mode` say; return the norm over all of them before."""
    given = [parameter for parameter in parameters if parameter.grad is not None]
    limit = config.clip_grad if config.clip_grad is not None else float("inf")
    if config.clip_mode == "global":
        return nn.utils.clip_grad_norm_(given, limit)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in given if parameter.grad is not None])
    for parameter in given:
        nn.utils.clip_grad_norm_(parameter, limit)
    return norm
