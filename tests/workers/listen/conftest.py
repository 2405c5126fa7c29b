"""An archive with its tokenizer and originals, as the page takes it; made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from syllabary.workers.control.jobs import ListenJob
from syllabary.workers.listen.page import Shown, application
from syllabary.workers.listen.serve import prepare
from tests.helpers.archive_corpus import make_base

HERE = "http://127.0.0.1:8642"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a tokenizer of random weights and an archive of them: three parts of four utterances. Read only."""
    return make_base(tmp_path_factory.mktemp("listen"))


@pytest.fixture(scope="session")
def shown(base: Path) -> Shown:
    """All that there is to hear of it."""
    job = ListenJob(archive=str(base / "archive"), tokenizer=str(base / "tokenizer"), shards=str(base / "shards"))
    return prepare(job)


def client_of(shown: Shown, address: str = "127.0.0.1") -> TestClient:
    """Somebody who asks from that address, by the page's own name."""
    return TestClient(application(shown), base_url=HERE, client=(address, 50_000))


@pytest.fixture
def client(shown: Shown) -> TestClient:
    """This machine's own browser."""
    return client_of(shown)
