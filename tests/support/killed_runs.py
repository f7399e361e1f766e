"""Pre-training runs in processes of their own, to be killed.

They come from a fork server: a fork of the test process itself inherits autograd's threads from tests before, and
PyTorch refuses to compute gradients then.
"""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from typing import Any

from islr.training import engine
from pretrain.run import PretrainConfig, run_pretrain

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pretrain.run"])


def start_run(config: PretrainConfig) -> BaseProcess:
    """A run in the background."""
    process = _CONTEXT.Process(target=_run, args=(config.model_dump(mode="json"),))
    process.start()
    return process


def killed_at(config: PretrainConfig, step: int) -> bool:
    """Run, and be killed at the start of a step, while its batch is there and nothing is saved.

    Args:
        config: Of the run.
        step: Counted from 0.

    Returns:
        Whether it died of that.
    """
    process = _CONTEXT.Process(target=_run_until, args=(config.model_dump(mode="json"), step))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _run(tree: dict[str, Any]) -> None:
    run_pretrain(PretrainConfig.model_validate(tree))  # a plug-in's class exists here only once its file is read


def _run_until(tree: dict[str, Any], step: int) -> None:
    plain = engine.seed_step

    def deadly(seed: int, current: int, rank: int) -> None:
        if current == step:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(seed, current, rank)

    engine.seed_step = deadly
    _run(tree)
