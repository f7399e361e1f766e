"""Speed of our code beside a named peer: interleaved in one run, on one thread, CPU time, minimum of the repeats.

A ratio from one run holds on a busy machine, where a time does not; the minimum is what the code needs when it is
left alone. Load is printed beside the numbers.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from islr.data.loader import pin_threads

REPEATS = 15


@dataclass(frozen=True)
class Contest:
    """Two functions that do the same work.

    Attributes:
        title: What the work is, with its size.
        ours, peer: Called without arguments, once per repeat.
        peer_name: Who the peer is.
        agree: Called once before timing; raises when the two results differ. Returns a line about how well they agree.
        repeats: Calls of each.
    """

    title: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    peer_name: str
    agree: Callable[[], str]
    repeats: int = REPEATS


def run_contests(contests: Sequence[Contest]) -> None:
    """Measure and print one table."""
    pin_threads()
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy"
    print(f"CPU milliseconds on one thread, minimum over interleaved repeats; load at start {load}")
    for contest in contests:
        agreement = contest.agree()
        best = {"ours": float("inf"), "peer": float("inf")}
        for _ in range(contest.repeats):
            for name, function in (("ours", contest.ours), ("peer", contest.peer)):
                began = time.process_time()
                function()
                best[name] = min(best[name], time.process_time() - began)
        ours, peer = 1000 * best["ours"], 1000 * best["peer"]
        print(f"{contest.title}: {ours:.2f} ms, {contest.peer_name} {peer:.2f} ms: {peer / ours:.1f} times faster")
        print(f"    {agreement}; {contest.repeats} repeats")
