"""Thread counts, kernel switches and seeds that make repeated runs agree to the bit."""

import numpy as np
import torch

from islr.data.loading.loader import pin_threads


def prepare_process(threads: int) -> None:
    """Set the thread counts and kernel switches that make repeated runs agree."""
    pin_threads()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the model's own randomness (dropout, drop path, mixing) by the step, so that no state is saved."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))
