"""The tests that `make quick` leaves out: those that took long, setup included, when all of them were last timed.

`python tests/support/slow_tests.py LOG` writes `tests/slow.txt` from the log of `pytest --durations=0 -vv`.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

SLOW = Path(__file__).resolve().parents[1] / "slow.txt"
LONGEST_S = 0.35
_TIME = re.compile(r"\s*(?P<seconds>[\d.]+)s (?:call|setup) +tests/(?P<test>[^\[\s]+)")


def slow_tests() -> set[str]:
    """Return the listed tests, as `folder/file.py::name` without parameters."""
    return set(SLOW.read_text(encoding="utf-8").split())


def timed(log: str, longest: float = LONGEST_S) -> list[str]:
    """Return the tests of a log of durations whose slowest case took over `longest` seconds."""
    seconds: dict[str, float] = defaultdict(float)
    for match in filter(None, map(_TIME.match, log.splitlines())):
        seconds[match["test"]] = max(seconds[match["test"]], float(match["seconds"]))
    return sorted(test for test, most in seconds.items() if most > longest)


if __name__ == "__main__":
    tests = timed(Path(sys.argv[1]).read_text(encoding="utf-8"), *map(float, sys.argv[2:]))
    SLOW.write_text("\n".join(tests) + "\n", encoding="utf-8")
