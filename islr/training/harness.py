"""The run harness shared by pre-training and fine-tuning: process, ranks, run folder, decoded clips, W&B run."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from islr.config import Config
from islr.data.audit.run_data import bind_data, describe_clips
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.progress import ProgressBar
from islr.training.checkpoint import LAST, PREVIOUS
from islr.training.determinism import prepare_process
from islr.training.distributed.world import World
from islr.training.run_folder import run_folder
from islr.training.wandb_run import WandbRun

if TYPE_CHECKING:
    from islr.data.loading.config import DataConfig
    from islr.training.optim import OptimConfig
    from islr.training.run_config import RunConfig


class TrainingConfig(Config):
    """Base of the configurations that train: what the harness and the engine read of them."""

    if TYPE_CHECKING:  # each subclass defines them, in the order that its `config.yaml` has
        name: str
        data: DataConfig
        optim: OptimConfig
        run: RunConfig


@dataclass(frozen=True)
class Run:
    """A run whose folder is held.

    Attributes:
        config: The whole resolved configuration.
        world: This rank among those of the run.
        folder: The run folder.
        wandb_run: Gets the metrics, too; None = no W&B run.
        data: Hash of the clips and labels that the run is bound to.
    """

    config: TrainingConfig
    world: World
    folder: Path
    wandb_run: WandbRun | None = None
    data: str = ""


def prepare(config: TrainingConfig) -> World:
    """Make this process deterministic and return it as a rank of the run."""
    world = World(config.run.device)
    prepare_process(config.run.threads)
    torch.manual_seed(config.run.seed)
    return world


@contextmanager
def without_values() -> Iterator[None]:
    """Build networks without values in the block: all that is checked of them is checked, and nothing is drawn."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter.*")  # weights of a file go nowhere
        yield


@contextmanager
def open_run(
    config: TrainingConfig,
    world: World,
    stores: Mapping[str, ClipStore],
    last_file: str,
    *,
    uses: Mapping[str, Manifest],
    labels: bool,
) -> Iterator[Run | None]:
    """Connect the ranks, hold the run folder, bind it to its clips and decode them for the length of the block.

    Args:
        config: The run's configuration.
        world: See `prepare`.
        stores: Title -> clips that are decoded at the start where `data.cache` says so.
        last_file: Written last by the run; the block gets None where the folder has it, so the run is finished.
        uses: What clips are used for ("train") -> the clips that the run depends on.
        labels: Whether it depends on their labels, too.

    Raises:
        UserError: The folder is in use, or belongs to another configuration or to other clips.
        ProcessLost: Another rank failed, died or did not answer.
    """
    with world.connected(config.run.timeout_s), run_folder(config, config.run.out, world) as folder:
        finished = (folder / last_file).exists()
        data = _bound(world, folder, uses, labels, last_file)
        if finished:
            yield None
            return
        if config.data.cache == "memory":
            world.at("decoding the clips")
            for title, store in stores.items():
                with ProgressBar(f"{config.name}: {title}", len(store), enabled=world.main) as bar:
                    store.fill_cache(bar.callback)
        with WandbRun(folder, config.run.wandb, config, world.main) as wandb_run:
            yield Run(config, world, folder, wandb_run, data)


def _bound(world: World, folder: Path, uses: Mapping[str, Manifest], labels: bool, last_file: str) -> str:
    """Return the hash of a run's clips on every rank, see `bind_data`; rank 0 looks at the files."""
    data = problem = ""
    if world.main:
        try:
            described = {use: describe_clips(manifest, labels) for use, manifest in uses.items()}
            begun = any((folder / name).exists() for name in (LAST, PREVIOUS, last_file))
            data = bind_data(folder, described, begun)
        except UserError as error:
            problem = str(error)
    data, problem = world.gather((data, problem))[0]
    if problem:
        raise UserError(problem)
    return data
