"""The training loop: every method, every modality, one rank or many.

The loop never asks which method it runs. A method is a module whose `forward(batch)` returns a dict with `loss`.
What a step computes is a function of (weights, seed, step): the batches come from `TrainBatches`, and the model's own
randomness is seeded anew at each step. So a run that is killed and resumed ends with the same weights, bit for bit.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from islr.config import dump_yaml
from islr.data.loading.batches import TrainBatches
from islr.data.loading.loader import Batch
from islr.data.loading.store import ClipStore
from islr.data.loading.unreadable import check_unreadable, warn_unreadable
from islr.data.views.views import View
from islr.errors import Interrupted, RunFailed, UserError
from islr.models.encoder import running_statistics
from islr.models.weights import refuse_retired
from islr.processes.signals import StopSignal
from islr.progress import ProgressBar
from islr.training.checkpoint import latest_checkpoint, restoring, save_checkpoint
from islr.training.determinism import seed_step
from islr.training.distributed.collectives import synchronise_batch_norms
from islr.training.distributed.world import World
from islr.training.harness import Run, TrainingConfig
from islr.training.optim import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    schedule_description,
    set_learning_rate,
    set_weight_decay,
)
from islr.training.tracking import Throughput, Tracker

Evaluate = Callable[[nn.Module, float], Mapping[str, float]]  # of the weights, at an epoch

logger = logging.getLogger(__name__)


@dataclass
class State:
    """What a checkpoint holds besides weights and optimiser."""

    step: int = 0
    evaluated: int = -1  # step of the last evaluation
    best: float = float("-inf")
    best_step: int = 0  # of the best evaluation
    seconds: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)  # row -> reason, training clips that could not be read
    unread: dict[int, str] = field(default_factory=dict)  # likewise of the clips that evaluations score


@dataclass(frozen=True)
class Selection:
    """How evaluations choose the weights that a run keeps.

    Attributes:
        metric: The evaluation's number that decides; higher is better.
        keep: Called with the weights whenever `metric` improves.
        patience: Epochs without improvement after which training ends; the schedule stays that of all epochs. None =
            never.
    """

    metric: str
    keep: Callable[[nn.Module], None]
    patience: int | None = None


class StepResult(NamedTuple):
    """What one optimiser step computed.

    Attributes:
        values: Mean of each value that the module reported; empty when no clip of the step could be read.
        norm: Gradient norm before clipping.
        rate: Learning rate of the step.
        epoch: Fractional epoch at which the step began.
    """

    values: dict[str, Tensor]
    norm: Tensor
    rate: float
    epoch: float


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def train_batches(
    store: ClipStore,
    view: View,
    config: TrainingConfig,
    world: World,
    balanced: bool = False,
    times: Sequence[int] | None = None,
) -> TrainBatches:
    """Return this rank's batches of a run; `balanced` and `times` as in `TrainBatches`.

    Raises:
        UserError: The batch size does not fit the corpus or cannot be cut evenly.
    """
    return TrainBatches(
        store,
        view,
        batch_size=config.optim.batch_size,
        seed=config.run.seed,
        accumulate=config.optim.accumulate,
        rank=world.rank,
        world=world.size,
        balanced=balanced,
        times=times,
    )


class Trainer:
    """Trains a module to the end of its schedule, from the run folder's last checkpoint when there is one.

    Args:
        module: `forward(batch)` returns `{"loss": scalar, ...}`. Optional hooks: `before_update(epoch)`, called when
            the gradients are computed and clipped, and `after_step(step, total)`.
        batches: The training clips.
        run: The run's configuration, folder and ranks; checkpoints and `metrics.jsonl` go to its folder.
        title: Shown with the progress.
        groups: Optimiser groups; default: weight decay only.
        evaluate: Called after each epoch with the weights to evaluate (averaged ones when `optim.ema` is set) and the
            epoch; an empty result is not logged.
        evaluate_start: Also evaluate before the first step.
        selection: How evaluations choose the weights to keep; None = none are.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: TrainBatches,
        run: Run,
        *,
        title: str,
        groups: list[dict[str, Any]] | None = None,
        evaluate: Evaluate | None = None,
        evaluate_start: bool = False,
        selection: Selection | None = None,
    ) -> None:
        self.module, self.batches, self.run, self.title = module, batches, run, title
        self.world, self.optim, self.options = run.world, run.config.optim, run.config.run
        self.total = max(1, round(self.optim.epochs * batches.steps_per_epoch))
        self._evaluate, self._selection = evaluate, selection
        self._before_update: Callable[[float], None] | None = getattr(module, "before_update", None)
        self._after_step: Callable[[int, int], None] | None = getattr(module, "after_step", None)
        module.to(self.world.device)
        self.optimizer = build_optimizer(self.optim, groups or parameter_groups(module, self.optim))
        average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(self.optim.ema)) if self.optim.ema else None
        self.average = average
        self.state = State(evaluated=-1 if evaluate_start else 0)
        self._restore()
        if self.options.sync_batch_norm and self.world.size > 1:
            synchronise_batch_norms(module, self.world.device)
        self._wrapped = self._wrap()

    def train(self) -> State:
        """Train to the end; the module then holds the final weights (the averaged ones when `optim.ema` is set).

        Raises:
            Interrupted: A signal came; the state is saved.
            RunFailed: The loss or the gradient is not finite; the message names the clips of the step.
            UserError: More than `data.max_bad` of the clips could not be read.
        """
        logger.info("%s: %s", self.title, schedule_description(self.optim, self.world.size))
        self._began = time.monotonic() - self.state.seconds
        self._throughput = Throughput(self.state.step)
        stream = self.batches.iterate(self.state.step, self.total)
        with (
            self._open_tracker() as self._tracker,
            StopSignal() as stop,
            ProgressBar(self.title, self.total, self.state.step, enabled=self.world.main) as self._bar,
        ):
            while True:
                if self.evaluation_is_due and self.evaluate() and self.state.step:
                    self.save()
                if self.should_stop():
                    break
                parts = self.read(stream)
                result = self.train_step(parts)
                interrupted = self.note_failures(parts, stop.received)
                if result.values and self.log_is_due:
                    self.log(result)
                if interrupted or self.save_is_due:
                    self.save()
                if interrupted:
                    step = self.state.step
                    raise Interrupted(f"stopped at step {step} of {self.total}; run the same command to go on")
        if self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        if self.world.main:
            warn_unreadable(self.state.failed, self.batches.store.manifest, "training", self.title)
        return self.state

    @property
    def epoch(self) -> float:
        """Return the fractional epoch of the state."""
        return self.state.step / self.batches.steps_per_epoch

    @property
    def epoch_is_over(self) -> bool:
        """Return whether the state is at the end of an epoch, the last of which may be a part."""
        return self.state.step % self.batches.steps_per_epoch == 0 or self.state.step == self.total

    @property
    def evaluation_is_due(self) -> bool:
        """Return whether to evaluate before the next step."""
        return self.epoch_is_over and self.state.step > self.state.evaluated

    @property
    def log_is_due(self) -> bool:
        """Return whether to log the step just done."""
        return self.state.step % self.options.log_every == 0 or self.state.step == self.total

    @property
    def save_is_due(self) -> bool:
        """Return whether to save after the step just done."""
        every = self.options.checkpoint_every or self.batches.steps_per_epoch
        return self.state.step % every == 0 or self.state.step == self.total

    def should_stop(self) -> bool:
        """Return whether training is over: all steps are done, or evaluations have stopped improving."""
        if self.state.step >= self.total:
            return True
        patience = self._selection.patience if self._selection else None
        steps = self.batches.steps_per_epoch
        if patience is None or self.state.step - self.state.best_step < patience * steps:
            return False
        best = self.state.best_step / steps
        logger.info("%s: stopped after epoch %g, none was better since %g", self.title, self.epoch, best)
        return True

    def read(self, stream: Iterator[list[Batch]]) -> list[Batch]:
        """Return the parts of the next step."""
        self.world.at(f"step {self.state.step}, reading clips")
        with self._throughput.waiting():
            return next(stream)

    def train_step(self, parts: list[Batch]) -> StepResult:
        """Update the weights once.

        Raises:
            RunFailed: The loss or the gradient is not finite; no update was made.
        """
        state, epoch = self.state, self.epoch
        rate = learning_rate(self.optim, epoch)
        set_learning_rate(self.optimizer, rate)
        set_weight_decay(self.optimizer, self.optim, state.step / self.total)
        seed_step(self.options.seed, state.step, self.world.rank)
        self._wrapped.train()
        self.world.at(f"step {state.step}")
        values = self._accumulate(parts)
        norm = clip_gradients(self.module.parameters(), self.optim)
        finite = bool(torch.isfinite(values["loss"]) & torch.isfinite(norm)) if values else True
        if self.world.any(not finite)[0]:
            raise RunFailed(self._divergence(values, norm, parts))
        if self._before_update is not None:
            self._before_update(epoch)
        if values:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if self.average is not None:
            self.average.update_parameters(self.module)
        if self._after_step is not None:
            self._after_step(state.step, self.total)
        return StepResult(values, norm, rate, epoch)

    def note_failures(self, parts: list[Batch], stop: bool) -> bool:
        """Record unreadable clips of all ranks; return whether any rank got a stop signal.

        Raises:
            UserError: More than `data.max_bad` of the clips could not be read.
        """
        fresh = {row: reason for part in parts for row, reason in part["failed"]}
        stopped, failing = self.world.any(stop, bool(fresh))
        if failing:
            for shard in self.world.gather(fresh):
                self.state.failed.update(shard)
            check_unreadable(self.state.failed, self.batches.store, "training")
        return stopped

    def log(self, result: StepResult) -> None:
        """Add a row of training metrics."""
        # Modules weigh their values so that the mean over ranks is that of the whole batch, see `collectives`.
        shown = self.world.average(result.values)
        shown |= self._throughput.report(self.state.step, self.batches.batch_size)
        self._tracker.log("train", self.state.step, result.epoch, **shown, lr=result.rate, grad_norm=float(result.norm))
        self._bar.update(self.state.step, f"loss {shown['loss']:.4f}")

    def evaluate(self) -> bool:
        """Evaluate the weights and keep them if they are the best; return whether there was anything to log."""
        if self._evaluate is None:
            return False
        weights = self.average.module if self.average is not None else self.module
        self.world.at(f"evaluation of step {self.state.step}")
        values = dict(self._evaluate(weights, self.epoch))
        self.state.evaluated = self.state.step
        if values:
            self._tracker.log("val", self.state.step, self.epoch, **values)
        if self._selection is not None and values[self._selection.metric] > self.state.best:
            self.state.best, self.state.best_step = values[self._selection.metric], self.state.step
            if self.world.main:
                self._selection.keep(weights)
        return bool(values)

    def save(self) -> None:
        """Write a checkpoint."""
        self.state.seconds = time.monotonic() - self._began
        if self.world.main:
            content = {
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "state": vars(self.state),
                "config": dump_yaml(self.run.config),
                "data": self.run.data,
            }
            save_checkpoint(self.run.folder, content)

    def _restore(self) -> None:
        """Load the last checkpoint, if any."""
        saved = latest_checkpoint(self.run.folder)
        if saved is None:
            return
        if saved.get("data", self.run.data) != self.run.data:
            raise UserError(
                f"the checkpoint in {self.run.folder} is of other clips or labels than the manifest's; restore the "
                "manifest, or choose another run folder"
            )
        refuse_retired(self.module, saved.get("module", {}), self.run.folder)
        with restoring(self.run.folder):
            self.module.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            self.state = State(**saved["state"])

    def _wrap(self) -> nn.Module:
        """Return the module as it is called: compiled where the run says so, averaging gradients over ranks."""
        wrapped = self.module
        if self.options.compile:
            wrapped = torch.compile(wrapped)  # type: ignore[assignment]
        if self.world.size > 1:
            # Recipes may leave parts of an encoder unused (its final norm, for instance).
            wrapped = DistributedDataParallel(wrapped, find_unused_parameters=True)
        return wrapped

    def _open_tracker(self) -> Tracker:
        state, run = self.state, self.run
        return Tracker(run.folder, state.step, run.wandb_run, enabled=run.world.main, evaluated=state.evaluated)

    def _accumulate(self, parts: list[Batch]) -> dict[str, Tensor]:
        """Accumulate the gradients of a step's parts; return the mean of each reported value."""
        sums: dict[str, Tensor] = {}
        filled = [part for part in parts if len(part["index"])]
        if self.world.size > 1 and len(filled) < len(parts):
            raise UserError(f"none of the clips of a process's batch could be read: {parts[0]['failed'][:3]}")
        synced = self.options.sync_batch_norm and self.world.size > 1
        for number, part in enumerate(filled):
            last = number == len(filled) - 1
            alone = last or self.world.size == 1
            left_alone = len(part["index"]) == 1 < self.batches.part_size and not synced
            with contextlib.nullcontext() if alone else self._wrapped.no_sync():  # type: ignore[operator]
                precision = self.world.autocast(self.options.precision)
                with precision, running_statistics(self.module, left_alone):
                    values = self._wrapped(to_device(part, self.world.device))
                (values["loss"] / len(filled)).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.world.device)) + value.detach() / len(filled)
        return sums

    def _divergence(self, values: dict[str, Tensor], norm: Tensor, parts: list[Batch]) -> str:
        clips = self.batches.store.manifest.clips
        rows = self.world.gather([int(row) for part in parts for row in part["index"]])
        names = ", ".join(clips[row].clip_id for shard in rows for row in shard)
        loss = self.world.average(values)["loss"] if values else float("nan")
        return (
            f"step {self.state.step}: loss {loss:g}, gradient norm {float(norm):g}; no update was made; clips of the "
            f"step: {names}"
        )
