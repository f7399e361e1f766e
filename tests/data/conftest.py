"""Fixtures of the tests of fetching."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetched import Fetched
from support.video_files import make_video
from support.web_files import (
    Site,
    serving,
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("clip") / "a.mp4", 40, front_index=True).read_bytes()


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path)
