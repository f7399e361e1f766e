"""The training loop: every method, every modality, one process or many.

The loop never asks which method it runs. A method is a module whose `forward(batch)` returns a dict with `loss`.
What a step does is a function of (weights, seed, step): the batches come from `TrainBatches`, the model's own
randomness is re-seeded at each step. So a run that is killed and resumed ends with the same weights, bit for bit.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from islr.config import Config, dump_yaml
from islr.data.loading.batches import TrainBatches
from islr.data.loading.loader import Batch
from islr.data.loading.store import ClipStore
from islr.data.views.views import View
from islr.errors import Interrupted, RunFailed, UserError
from islr.processes.signals import StopSignal
from islr.progress import ProgressBar
from islr.training.checkpoint import latest_checkpoint, save_checkpoint
from islr.training.determinism import seed_step
from islr.training.distributed.collectives import synchronise_batch_norms
from islr.training.distributed.world import World
from islr.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    schedule_words,
    set_learning_rate,
    set_weight_decay,
)
from islr.training.run_config import RunConfig
from islr.training.tracking import Tracker
from islr.training.wandb_run import WandbRun

Evaluate = Callable[[nn.Module, float], Mapping[str, float]]  # of the weights, at an epoch


@dataclass
class State:
    """What a checkpoint holds besides weights and optimiser."""

    step: int = 0
    evaluated: int = -1  # step of the last evaluation
    best: float = float("-inf")
    best_step: int = 0  # of the evaluation that was best
    seconds: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)  # row -> reason, clips that could not be read


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def train_batches(
    store: ClipStore, view: View, optim: OptimConfig, run: RunConfig, world: World, balanced: bool = False
) -> TrainBatches:
    """The batches of a run, for this process; `balanced` ones draw from all classes alike.

    Raises:
        UserError: The batch size does not fit the corpus or cannot be cut evenly.
    """
    return TrainBatches(
        store,
        view,
        batch_size=optim.batch_size,
        seed=run.seed,
        accumulate=optim.accumulate,
        rank=world.rank,
        world=world.size,
        balanced=balanced,
    )


def fit(
    module: nn.Module,
    batches: TrainBatches,
    *,
    optim: OptimConfig,
    run: RunConfig,
    config: Config,
    world: World,
    folder: Path,
    title: str,
    groups: list[dict[str, Any]] | None = None,
    evaluate: Evaluate | None = None,
    evaluate_start: bool = False,
    select: str = "",
    keep_best: Callable[[nn.Module], None] | None = None,
    patience: int | None = None,
    wandb_run: WandbRun | None = None,
) -> State:
    """Train `module` to the end, from the folder's last checkpoint when there is one.

    Args:
        module: `forward(batch)` returns `{"loss": scalar, ...}`; optional `before_update(epoch)`, called when the
            gradients are there and clipped, and `after_step(step, total)`.
        batches: What it is trained on.
        optim, run: Schedule and execution.
        config: The whole resolved configuration, stored in the checkpoint.
        world: This process among the run's.
        folder: Run folder; checkpoints and `metrics.jsonl` go there.
        title: Shown with the progress.
        groups: Optimiser groups; default: weight decay only.
        evaluate: Called after each epoch with the weights to judge (averaged ones when `optim.ema` is set) and the
            epoch; an empty result is not logged.
        evaluate_start: Also evaluate before the first step.
        select: Which of the evaluation's numbers, higher is better, decides about `keep_best`.
        keep_best: Called with the weights whenever `select` improves.
        patience: Stop after this many epochs in which it did not; the schedule stays that of all epochs.
        wandb_run: Gets the metrics, too.

    Returns:
        The final state; `module` holds the final weights (the averaged ones when `optim.ema` is set).

    Raises:
        Interrupted: A signal came; the state is saved.
        RunFailed: The loss or the gradient is not finite; the message names the clips of the step.
        UserError: More than `data.max_bad` of the clips could not be read.
    """
    device = world.device
    module.to(device)
    optimizer = build_optimizer(optim, groups or parameter_groups(module, optim))
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(optim.ema)) if optim.ema else None
    total = max(1, round(optim.epochs * batches.steps_per_epoch))
    state = State()
    saved = latest_checkpoint(folder)
    if saved is not None:
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        if average is not None:
            average.load_state_dict(saved["average"])
        state = State(**saved["state"])
    if run.sync_batch_norm and world.size > 1:
        synchronise_batch_norms(module, device)
    wrapped = _wrap(module, run, world)
    before_update: Callable[[float], None] | None = getattr(module, "before_update", None)
    after_step: Callable[[int, int], None] | None = getattr(module, "after_step", None)
    judged = average.module if average is not None else module
    tracker = Tracker(folder, state.step, wandb_run, enabled=world.main, evaluated=state.evaluated)
    if world.main:
        print(f"{title}: {schedule_words(optim, world.size)}", file=sys.stderr)
    clock = time.monotonic() - state.seconds
    marked = (state.step, time.monotonic())

    def save() -> None:
        state.seconds = time.monotonic() - clock
        if world.main:
            content = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "state": vars(state),
                "config": dump_yaml(config),
            }
            save_checkpoint(folder, content)

    def judge() -> bool:
        """Evaluate; whether there was anything to remember."""
        if evaluate is None:
            return False
        epoch = state.step / batches.steps_per_epoch
        world.at(f"evaluation of step {state.step}")
        values = dict(evaluate(judged, epoch))
        state.evaluated = state.step
        if values:
            tracker.log("val", state.step, epoch, **values)
        if select and values[select] > state.best:
            state.best, state.best_step = values[select], state.step
            if keep_best is not None and world.main:
                keep_best(judged)
        return bool(values)

    if state.step == 0 and not evaluate_start:
        state.evaluated = 0
    waited = 0.0  # seconds since `marked` in which the next batch was not there yet
    stream = batches.iterate(state.step, total)
    with StopSignal() as stop, ProgressBar(title, total, state.step, enabled=world.main) as bar:
        while True:
            epoch_done = state.step % batches.steps_per_epoch == 0 or state.step == total
            if epoch_done and state.step > state.evaluated and judge() and state.step:
                save()
            if state.step >= total:
                break
            if patience is not None and state.step - state.best_step >= patience * batches.steps_per_epoch:
                if world.main:
                    best, epoch = (at / batches.steps_per_epoch for at in (state.best_step, state.step))
                    print(f"{title}: stopped after epoch {epoch:g}, none was better since {best:g}", file=sys.stderr)
                break
            asked = time.monotonic()
            world.at(f"step {state.step}, reading clips")
            parts = next(stream)
            waited += time.monotonic() - asked
            epoch = state.step / batches.steps_per_epoch
            rate = learning_rate(optim, epoch)
            set_learning_rate(optimizer, rate)
            set_weight_decay(optimizer, optim, state.step / total)
            seed_step(run.seed, state.step, world.rank)
            wrapped.train()
            world.at(f"step {state.step}")
            values, norm = _backward(wrapped, parts, optim, run, world)
            finite = bool(torch.isfinite(values["loss"]) & torch.isfinite(norm)) if values else True
            if world.any(not finite)[0]:
                raise RunFailed(_diverged(state.step, values, norm, parts, batches, world))
            if before_update is not None:
                before_update(epoch)
            if values:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            if average is not None:
                average.update_parameters(module)
            if after_step is not None:
                after_step(state.step, total)
            fresh = {row: reason for part in parts for row, reason in part["failed"]}
            stopped, failing = world.any(stop.received, bool(fresh))
            if failing:
                for shard in world.gather(fresh):
                    state.failed.update(shard)
                _check_failures(state, batches)
            if values and (state.step % run.log_every == 0 or state.step == total):
                shown = world.average(
                    values
                )  # the loss is that of the whole batch, see `islr/training/distributed/collectives.py`
                done, since = state.step - marked[0], time.monotonic() - marked[1]
                shown["clips_per_s"] = round(done * batches.batch_size / max(since, 1e-6), 1)
                shown["data_wait"] = round(waited / max(since, 1e-6), 3)  # share of the time
                marked, waited = (state.step, time.monotonic()), 0.0
                tracker.log("train", state.step, epoch, **shown, lr=rate, grad_norm=float(norm))
                bar.update(state.step, f"loss {shown['loss']:.4f}")
            every = run.checkpoint_every or batches.steps_per_epoch
            if stopped or state.step % every == 0 or state.step == total:
                save()
            if stopped:
                tracker.close()
                raise Interrupted(f"stopped at step {state.step} of {total}; run the same command to go on")
    tracker.close()
    if average is not None:
        module.load_state_dict(average.module.state_dict())
    return state


def _wrap(module: nn.Module, run: RunConfig, world: World) -> nn.Module:
    wrapped = module
    if run.compile:
        wrapped = torch.compile(module)  # type: ignore[assignment]
    if world.size > 1:
        # Recipes may leave parts of an encoder unused (its final norm, for instance).
        wrapped = DistributedDataParallel(wrapped, find_unused_parameters=True)
    return wrapped


def _backward(
    module: nn.Module, parts: list[Batch], optim: OptimConfig, run: RunConfig, world: World
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Accumulate the gradients of a step's parts; returns the mean of each reported value and the gradient norm."""
    sums: dict[str, torch.Tensor] = {}
    filled = [part for part in parts if len(part["index"])]
    if world.size > 1 and len(filled) < len(parts):
        raise UserError(f"none of the clips of a process's batch could be read: {parts[0]['failed'][:3]}")
    for number, part in enumerate(filled):
        last = number == len(filled) - 1
        quiet = contextlib.nullcontext() if last or world.size == 1 else module.no_sync()  # type: ignore[operator]
        with quiet:
            with torch.autocast(world.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
                values = module(to_device(part, world.device))
            (values["loss"] / len(filled)).backward()
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros((), device=world.device)) + value.detach() / len(filled)
    return sums, clip_gradients(module.parameters(), optim)


def _check_failures(state: State, batches: TrainBatches) -> None:
    allowed = batches.store.config.max_bad * len(batches.store)
    if len(state.failed) > allowed:
        clips = batches.store.manifest.clips
        listed = ", ".join(f"{clips[row].clip_id} ({reason})" for row, reason in list(state.failed.items())[:5])
        raise UserError(
            f"{len(state.failed)} of {len(batches.store)} clips could not be read, more than data.max_bad "
            f"{batches.store.config.max_bad:g} allows: {listed}; audit the manifest or raise the limit"
        )


def _diverged(
    step: int,
    values: dict[str, torch.Tensor],
    norm: torch.Tensor,
    parts: list[Batch],
    batches: TrainBatches,
    world: World,
) -> str:
    clips = batches.store.manifest.clips
    rows = world.gather([int(row) for part in parts for row in part["index"]])
    names = ", ".join(clips[row].clip_id for shard in rows for row in shard)
    loss = world.average(values)["loss"] if values else float("nan")
    return f"step {step}: loss {loss:g}, gradient norm {float(norm):g}; no update was made; clips of the step: {names}"
