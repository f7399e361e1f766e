"""A folder of run folders as a small study leaves them."""

from pathlib import Path

import pytest
from support.report_runs import write_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, four models, probes and pre-training; not to be written to."""
    return write_runs(tmp_path_factory.mktemp("grid") / "runs")
