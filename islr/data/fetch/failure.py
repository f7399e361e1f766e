"""Failures of a download, and what a transfer may cost."""

from dataclasses import dataclass

_DETAIL = 200  # characters of a failure's particulars that the table keeps


@dataclass(frozen=True)
class TransferLimits:
    """Limits of one transfer.

    Attributes:
        timeout: Seconds for the head of an answer, and for each silence inside its body.
        max_bytes: Largest file.
        allow_private: Also connect to this machine and the local network.
    """

    timeout: float = 30.0
    max_bytes: int = 2 << 30
    allow_private: bool = False


class FetchFailure(Exception):
    """A failed attempt.

    Attributes:
        outcome: A key of `islr.data.fetch.table.OUTCOMES`.
        detail: The particulars, in one line.
        retry: Whether another attempt in this run may succeed.
        wait: Seconds that the host asks us to wait; None = it asks for nothing.
        of_host: Whether the host fails, and not only this file.
    """

    def __init__(
        self, outcome: str, detail: str, *, retry: bool = False, wait: float | None = None, of_host: bool = False
    ) -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, " ".join(detail.split())[:_DETAIL]
        self.retry, self.wait, self.of_host = retry, wait, of_host


class Stopped(Exception):
    """The user stopped the run; the bytes received so far stay for the next run."""
