"""What several kill tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.archive_corpus import make_base

NUM_SHARDS = 16


@pytest.fixture(scope="session")
def archive_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of about 40 s of audio, a tokenizer, and the archive as one process writes it without Ray. Read only."""
    shards = [f"train-{number:06}" for number in range(NUM_SHARDS)]
    return make_base(tmp_path_factory.mktemp("archive-kills"), shards, num_utterances=40)
