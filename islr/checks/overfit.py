"""The overfit check: a fresh module must memorise one small batch.

A module that fails has a broken gradient, a learning rate of the wrong order, a target that does not depend on the
clip, or a loss over the wrong tokens. The learning rate is the configuration's highest from the first step; dropout and
drop path are off.
"""

import time
from typing import Any

import torch
from torch import nn

from islr.checks.goal import Goal
from islr.checks.subject import CheckLimits, CheckOutcome, Subject, disable_dropout, evenly
from islr.data.loading.batches import TrainBatches
from islr.data.loading.loader import Batch
from islr.data.loading.store import ClipStore
from islr.errors import UserError
from islr.evaluation.pretext import Verdict, judge
from islr.training.determinism import seed_step
from islr.training.distributed.world import World
from islr.training.engine import to_device
from islr.training.optim import build_optimizer, clip_gradients, set_learning_rate

_SMALLEST = 2  # clips; a single one has no batch statistics and nothing to be distinguished from


def one_batch(subject: Subject, clips: int, world: World) -> Batch:
    """Return samples of clips spread over the corpus and its classes.

    Raises:
        UserError: Fewer than two of them can be read.
    """
    manifest = subject.train.select()
    rows = evenly(sorted(manifest, key=lambda clip: -1 if clip.label is None else clip.label), clips)
    store = ClipStore(manifest.replace(rows), subject.data.model_copy(update={"cache": "none"}))
    batches = TrainBatches(store, subject.view, batch_size=len(rows), seed=subject.run.seed)
    batch = next(batches.fixed(len(rows)))
    if len(batch["index"]) < _SMALLEST:
        raise UserError(
            f"{len(batch['index'])} of {len(rows)} clips of {manifest.name} could be read: {batch['failed']}"
        )
    return to_device(batch, world.device)


def overfit(subject: Subject, module: nn.Module, batch: Batch, world: World, limits: CheckLimits) -> CheckOutcome:
    """Train a fresh module on one batch until its goal is met or the limits are reached.

    Args:
        subject: The run.
        module: The result of `subject.build(True)`, on the device; it is trained.
        batch: The result of `one_batch`.
        world: The device.
        limits: Steps and seconds.
    """
    disable_dropout(module)
    module.train()
    goal = subject.goal(module, batch)
    optimizer = build_optimizer(subject.optim, subject.groups(module))
    set_learning_rate(optimizer, subject.optim.lr * subject.optim.scale)
    began = time.monotonic()
    values: list[float] = []
    trivial: dict[str, float] = {}  # of the fresh module: later its running means know the batch
    for step in range(limits.steps + 1):
        seed_step(subject.run.seed, step, 0)
        with world.autocast(subject.run.precision):
            logged = module(batch)
        values.append(float(logged[goal.key].detach()))
        trivial = trivial or {name: float(logged[name]) for name in subject.predictors}
        loss = logged["loss"]
        if not torch.isfinite(loss):
            return _outcome(
                goal, values, batch, began, limits, problem=f"the loss is {float(loss.detach()):g} at step {step}"
            )
        if goal.met(values[-1]) or step == limits.steps or time.monotonic() - began > limits.seconds:
            break
        loss.backward()
        clip_gradients(module.parameters(), subject.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    ends = {name: float(value.detach()) for name, value in logged.items()}
    verdict = judge(subject.predictors, ends | trivial)
    return _outcome(goal, values, batch, began, limits, verdict)


def _outcome(
    goal: Goal,
    values: list[float],
    batch: Batch,
    began: float,
    limits: CheckLimits,
    verdict: Verdict | None = None,
    problem: str = "",
) -> CheckOutcome:
    steps, clips = len(values) - 1, len(batch["index"])
    passed = not problem and goal.met(values[-1])
    if not passed and not problem and steps < limits.steps:
        problem = f"stopped after {limits.seconds:g} s (--seconds)"
    message = (
        f"{goal.key} {values[0]:.3g} -> {values[-1]:.3g} in {steps} steps on {clips} clips; "
        f"required {'at least' if goal.rises else 'at most'} {goal.limit:.3g}, {goal.reason}"
    )
    if verdict is not None and (hardest := verdict.hardest):
        task = "learned" if all(one.beaten for one in hardest) else "not learned"
        message += f"; task {task}: {', '.join(map(str, hardest))}"
    numbers: dict[str, Any] = {"key": goal.key, "start": values[0], "end": values[-1], "limit": goal.limit}
    numbers |= {"steps": steps, "clips": clips, "seconds": time.monotonic() - began}
    return CheckOutcome.of("overfit", passed, f"{problem}; {message}" if problem else message, numbers)
