"""What tests of fetching share: quick options, and a json of addresses with the folder that its clips go to."""

import csv
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from islr.data.fetch.failure import TransferLimits
from islr.data.fetch.run import FetchOptions, fetch
from islr.data.fetch.table import FetchedClip
from support.wlasl_files import instance, write_json

QUICK = FetchOptions(
    rate=1000.0,
    retries=2,
    backoff_s=0.01,
    workers=1,
    limits=TransferLimits(timeout=1.0, allow_private=True),
    yt_dlp=(),
)

QUICK_ONCE = dataclasses.replace(QUICK, retries=0)


class Fetched:
    """A json of one gloss whose clips are given by their addresses, and the folder that they go to."""

    def __init__(self, folder: Path) -> None:
        self.json, self.out = folder / "w.json", folder / "out"

    def __call__(self, *urls: str | dict[str, Any], options: FetchOptions = QUICK) -> list[FetchedClip]:
        changes = [{"url": url} if isinstance(url, str) else url for url in urls]
        clips = [instance(f"{number:05d}", "train", **change) for number, change in enumerate(changes)]
        write_json(self.json, {"book": clips})
        return fetch(self.json, self.out, options)

    def outcomes(self, *urls: str | dict[str, Any], options: FetchOptions = QUICK) -> list[str]:
        return [row.outcome for row in self(*urls, options=options)]

    def table(self) -> list[dict[str, str]]:
        with (self.out / "fetch.csv").open() as file:
            return list(csv.DictReader(file))

    def videos(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir() if path.suffix not in ("", ".csv"))


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
