"""How far each pre-training recipe is from the numbers recorded of its original: losses, targets, gradients.

`python tests/support/oracle_table.py` runs the oracle tests of the recipes and prints every
difference that they measured.
"""

import sys
from pathlib import Path

import pytest

from pretrain import RECIPES
from support.oracle_helpers import DIFFERENCES

FILES = {  # file of tests -> the recipe it is about
    "test_maskfeat": "maskfeat",
    "test_hog": "maskfeat",
    "test_videomae": "videomae",
    "test_svt_parity": "svt",
    "test_bevt": "bevt",
    "test_tokenizer": "tokenizer",
}


class _Collector:
    """Keeps what the tests measured, and which failed or were skipped."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, str, str, str, str, str]] = []
        self.unusual: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.unusual.append(f"skipped: {report.nodeid}: {report.longreprtext}")
        elif report.failed:
            self.unusual.append(f"FAILED: {report.nodeid}: {report.longreprtext.splitlines()[-1]}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for file, found in session.config.stash.get(DIFFERENCES, []):
            for row in found.rows:
                case = row.test.removeprefix("test_").replace("_", " ")
                numbers = (f"{row.largest:.1e}", f"{row.relative:.1e}", row.limit)
                self.measured.append((FILES[file], case, row.what, *numbers))


def main() -> int:
    """Print the table; 1 where a number is too far off."""
    here, collector = Path(__file__).resolve().parent.parent, _Collector()
    files = [str(path) for file in FILES for path in here.rglob(f"{file}.py")]
    options = [
        "-o",
        "addopts=",
        "-p",
        "no:terminal",
        "-p",
        "no:cacheprovider",
        "-m",
        "oracle",
        "--rootdir",
        str(here.parent),
    ]
    code = pytest.main([*options, *files], plugins=[collector])
    print("| recipe | test | what | largest difference | relative | limit |")
    print("|---|---|---|---|---|---|")
    for row in sorted(collector.measured, key=lambda row: list(RECIPES).index(row[0])):
        print(f"| {' | '.join(row)} |")
    print("\n".join(collector.unusual))
    none = [name for name in RECIPES if name not in FILES.values()]
    print(f"{len(collector.measured)} comparisons; no original's numbers for {', '.join(none)}")
    return int(code != pytest.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
