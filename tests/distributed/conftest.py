from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.training_testing import Gang, prepare_encoder, training_recipe, write_training_shards


@pytest.fixture(scope="session")
def pair() -> Iterator[Gang]:
    """Two ranks."""
    with Gang(2) as gang:
        yield gang


@pytest.fixture(scope="session")
def single() -> Iterator[Gang]:
    """One rank, in its own process."""
    with Gang(1) as gang:
        yield gang


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of utterances of unequal length."""
    return write_training_shards(str(tmp_path_factory.mktemp("training") / "shards"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stage-1 run's output, with random weights."""
    return prepare_encoder(Path(tmp_path_factory.mktemp("encoder")), training_recipe())
