"""Fine-tuned models of both modalities that were never trained."""

from pathlib import Path

import pytest
from support.fine_tuned import POSE, VIDEO, write_model


@pytest.fixture(scope="session")
def runs(mini_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders `video` and `pose`; a test that adds evaluations to them names its own."""
    root = tmp_path_factory.mktemp("runs")
    write_model(root / "video", mini_corpus / "manifest.csv", VIDEO, seed=0)
    write_model(root / "pose", mini_corpus / "manifest.csv", POSE, seed=1)
    return root
