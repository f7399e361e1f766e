"""Log messages on the console, as the commands show them; whoever embeds the suite configures `logging` instead."""

import io
import logging
import os
import sys

ROOTS = ("islr", "pretrain", "probe")  # top-level loggers


class _Console(logging.Handler):
    """Writes plain lines to whatever `sys.stderr` is at the moment, as progress bars redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def of_other_rank() -> bool:
    """Return whether this is one of several ranks and not the first; a wrong environment makes no rank."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size)


def print_anywhere() -> None:
    """Let stdout and stderr replace characters that a terminal's encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show_logs(level: int = logging.INFO) -> None:
    """Show the messages of the suite from `level` up, and progress where that is INFO or below.

    Of the ranks of one run, only the first shows less than warnings.
    """
    if of_other_rank():
        level = max(level, logging.WARNING)
    for root in ROOTS:
        logger = logging.getLogger(root)
        logger.setLevel(level)
        if not any(isinstance(handler, _Console) for handler in logger.handlers):
            logger.addHandler(_Console())
