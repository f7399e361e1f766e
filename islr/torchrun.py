"""torchrun with the exit codes of this program: `python -m islr.torchrun` takes torchrun's arguments.

torchrun itself ends with 1 whatever its processes ended with, so that nobody can tell a wrong configuration (2) or a
run that was stopped and saved (75) from a failure.
"""

import sys
from collections.abc import Iterable, Sequence

WRONG_INPUT, INTERRUPTED, FAILED = 2, 75, 1


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; returns the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        return exit_code(failure.exitcode for failure in error.failures.values())
    except SignalException:
        return INTERRUPTED  # its processes were told to save
    return 0


def exit_code(codes: Iterable[int]) -> int:
    """One code for those of several failed processes: what the user can do something about comes first."""
    found = set(codes)
    return next((code for code in (WRONG_INPUT, INTERRUPTED) if code in found), FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
