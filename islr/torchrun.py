"""torchrun with the exit codes of `islr`: `python -m islr.torchrun` takes torchrun's arguments.

torchrun itself exits with 1 whatever the exit codes of its processes, so a wrong configuration (2) and a run that was
stopped and saved (75) look like failures.
"""

import sys
from collections.abc import Iterable, Sequence

from islr.errors import DONE, FAILED, INTERRUPTED, WRONG_INPUT


def main(arguments: Sequence[str]) -> int:
    """Run torchrun and return the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        return exit_code(failure.exitcode for failure in error.failures.values())
    except SignalException:
        return INTERRUPTED  # torchrun has passed the signal on, and its processes have saved
    return DONE


def exit_code(codes: Iterable[int]) -> int:
    """Return one code for several failed processes: a code the user can act on comes before a failure."""
    failed = set(codes)
    return next((code for code in (WRONG_INPUT, INTERRUPTED) if code in failed), FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
