"""Memory that the kernel refuses is told in one line, and the bound ends with its block."""

from __future__ import annotations

import resource

import pytest
import torch

from syllabary.shards.errors import InputError
from syllabary.workers.cluster.memory import bounded_memory, free_bytes


def test_what_goes_beyond_is_refused_and_what_fits_is_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory("a trial", 256 << 20, "free some"):
        assert torch.ones(1 << 24).sum() == 1 << 24  # 64 MiB
    with (
        pytest.raises(InputError, match=r"a trial needs more memory than may be taken: '0.3 GB'; free some"),
        bounded_memory("a trial", 256 << 20, "free some"),
    ):
        torch.empty(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    torch.empty(1 << 27)


def test_nothing_left_is_refused_before_the_work_and_other_errors_pass() -> None:
    with pytest.raises(InputError, match=r"'0\.0 GB'"), bounded_memory("a trial", -1, "free some"):
        raise AssertionError("the work began")
    with pytest.raises(RuntimeError, match="a bug"), bounded_memory("a trial", 1 << 30, "free some"):
        raise RuntimeError("a bug")


def test_free_memory_is_the_machines_or_the_groups(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    machine = free_bytes()
    assert machine > 1 << 20
    monkeypatch.setattr("syllabary.workers.cluster.memory._CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_bytes() == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() > 4000
