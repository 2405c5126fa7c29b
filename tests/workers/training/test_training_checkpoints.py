"""A checkpoint appears whole or not at all; damage is found by digest; the last k and the best are kept."""

from __future__ import annotations

import pytest

from syllabary.shards import store
from syllabary.shards.errors import FormatError, StorageError, UnavailableError
from syllabary.workers.training import engine_files
from syllabary.workers.training.checkpoints import MANIFEST, CheckpointStore, Manifest
from syllabary.workers.training.data.epoch_order import mix
from syllabary.workers.training.engine_files import needs_universal, save_engines
from syllabary.workers.training.history import History


def _write(checkpoints: CheckpointStore, tmp_path, step: int, *, commit: bool = True) -> None:
    files = []
    for name in ("engine/a.pt", "metrics.parquet"):
        local = tmp_path / "local"
        local.write_bytes(f"{name} of {step}".encode() * 50)
        files.append(checkpoints.put_file(step, name, local))
    if commit:
        checkpoints.commit(Manifest(step, 1, {"position": mix(step), "best": None}, tuple(files)))


@pytest.fixture(params=["local", "s3"])
def checkpoints(request, tmp_path) -> CheckpointStore:
    if request.param == "s3":
        return CheckpointStore(request.getfixturevalue("s3").bucket() + "/run")
    return CheckpointStore(str(tmp_path / "run"))


def test_without_its_manifest_a_checkpoint_does_not_exist_and_is_swept(checkpoints, tmp_path):
    _write(checkpoints, tmp_path, 2)
    _write(checkpoints, tmp_path, 4, commit=False)
    assert checkpoints.steps() == [2]
    assert checkpoints.newest_whole() == (2, [])
    assert checkpoints.sweep(keep=2) == 1
    assert {f.name.split("/")[0] for f in checkpoints.folder.list()} == {"step-00000002"}


def test_a_fetched_checkpoint_has_its_files(checkpoints, tmp_path):
    _write(checkpoints, tmp_path, 2)
    with checkpoints.fetched(2) as folder:
        assert (folder / "engine" / "a.pt").read_bytes().startswith(b"engine/a.pt of 2")
    assert Manifest.read(checkpoints.of_step(2)).state["position"] == mix(2)


@pytest.mark.parametrize("harm", ["changed", "missing", "manifest"])
def test_damage_is_named_and_the_one_before_is_used(checkpoints, tmp_path, harm):
    for step in (2, 4):
        _write(checkpoints, tmp_path, step)
    victim = checkpoints.of_step(4).join(MANIFEST if harm == "manifest" else "engine/a.pt")
    if harm == "missing":
        store.delete(victim)
    else:
        store.publish_bytes(victim, b"{}" if harm == "manifest" else b"other bytes")
    found, reports = checkpoints.newest_whole()
    assert found == 2
    assert len(reports) == 1 and "skipped the damaged checkpoint of step 4" in reports[0]
    assert checkpoints.sweep(keep=found) == 1
    assert checkpoints.steps() == [2]


def test_a_store_that_is_away_says_nothing_of_its_checkpoints(tmp_path, s3, monkeypatch):
    checkpoints = CheckpointStore(s3.bucket() + "/run")
    _write(checkpoints, tmp_path, 2)
    opened = store.open_read

    def away(uri: str, **options):
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(store, "open_read", away)
    with pytest.raises(UnavailableError, match="does not answer"):
        checkpoints.newest_whole()
    monkeypatch.setattr(store, "open_read", opened)
    assert checkpoints.newest_whole() == (2, [])


def test_folders_that_are_no_checkpoints_are_left_alone(checkpoints, tmp_path):
    _write(checkpoints, tmp_path, 2)
    store.publish_bytes(store.join(checkpoints.folder.uri, "step-notes", MANIFEST), b"mine")
    assert checkpoints.newest_whole() == (2, [])
    assert checkpoints.sweep(keep=2) == 0
    assert store.exists(store.join(checkpoints.folder.uri, "step-notes", MANIFEST))


def test_nothing_whole_is_no_checkpoint(checkpoints):
    assert checkpoints.newest_whole() == (None, [])
    assert checkpoints.sweep(keep=None) == 0


def test_the_last_two_and_the_best_are_kept(checkpoints, tmp_path):
    for step in (2, 4, 6, 8, 10):
        _write(checkpoints, tmp_path, step)
    checkpoints.retain(last=2, best=4)
    assert checkpoints.steps() == [4, 8, 10]


def test_a_manifest_of_another_version_is_refused(checkpoints, tmp_path):
    _write(checkpoints, tmp_path, 2)
    uri = checkpoints.of_step(2).join(MANIFEST)
    newer = store.read_bytes(uri).replace(b'"format_version": 1', b'"format_version": 9')
    store.publish_bytes(uri, newer)
    with pytest.raises(FormatError, match=r"unknown checkpoint version: 9; expected 1"):
        Manifest.read(checkpoints.of_step(2))


def _history(steps: int) -> History:
    history = History()
    for step in range(steps):
        history.add(step, "train", {"loss": 1 / (step + 1), "gradient_norm": 2.0})
        history.add(step, "timing", {"step_s": 0.1})
    return history


def test_metrics_come_back_and_the_same_rows_give_the_same_bytes():
    history = _history(5)
    assert History.from_parquet(history.to_parquet()).rows == history.rows
    assert _history(5).to_parquet() == history.to_parquet()
    assert History.from_parquet(history.to_parquet(("train",))).names("timing") == []
    assert History.from_parquet(History().to_parquet()).rows == []


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _history(5).publish(str(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"timing/step_s", "train/gradient_norm", "train/loss"}
    assert [e.step for e in events.Scalars("train/loss")] == [0, 1, 2, 3, 4]
    assert events.Scalars("train/loss")[3].value == pytest.approx(0.25)


def test_a_longer_history_only_appends_to_the_events():
    assert _history(6).to_events().startswith(_history(5).to_events())


def test_a_checkpoint_that_is_half_deleted_is_an_orphan_and_not_a_damaged_one(checkpoints, tmp_path, monkeypatch):
    """The manifest goes first: whatever ends the deletion after that, no run takes the rest for a checkpoint."""
    for step in (2, 4):
        _write(checkpoints, tmp_path, step)
    delete = store.delete

    def killed(uri: str) -> None:
        if not uri.endswith(MANIFEST):
            raise KeyboardInterrupt
        delete(uri)

    monkeypatch.setattr(store, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.discard(4)
    monkeypatch.setattr(store, "delete", delete)
    assert store.exists(checkpoints.of_step(4).join("engine/a.pt"))
    assert checkpoints.steps() == [2] and checkpoints.newest_whole() == (2, [])
    assert checkpoints.sweep(keep=2) == 1 and checkpoints.of_step(4).list() == []


@pytest.mark.parametrize(
    ("zero_stage", "written_by", "read_by", "needed"),
    [
        (0, 1, 1, False), (0, 1, 2, False), (0, 2, 1, False), (1, 1, 1, False), (1, 2, 2, False),
        (1, 1, 2, True), (1, 2, 1, True), (2, 4, 1, True), (2, 2, 2, False),
    ],
)  # fmt: skip
def test_a_checkpoint_is_converted_where_zero_split_it_over_another_number_of_ranks(
    monkeypatch, zero_stage, written_by, read_by, needed
):
    monkeypatch.setattr(engine_files, "world", lambda: (0, read_by))
    assert needs_universal(zero_stage, written_by) is needed


def test_what_storage_refuses_of_a_checkpoint_is_a_line_and_no_exception(checkpoints, monkeypatch):
    history = History()
    history.add(1, "train", {"loss": 0.5})
    (stored,) = save_engines({}, checkpoints, 2, history)
    assert stored.name == "metrics.parquet"
    assert History.from_parquet(store.read_bytes(checkpoints.of_step(2).join("metrics.parquet"))).rows == history.rows

    def refused(*_: object) -> None:
        raise StorageError("the bucket is full")

    monkeypatch.setattr(CheckpointStore, "put_file", refused)
    assert save_engines({}, checkpoints, 4, history) == "the bucket is full"


def test_where_nothing_can_be_written_meanwhile_a_checkpoint_is_not_begun(checkpoints, monkeypatch):
    def refused(uri: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_files, "_scratch", refused)
    told = save_engines({}, checkpoints, 2, History())
    assert told == f"cannot write below {checkpoints.folder.uri} ([Errno 28] No space left on device)"
    assert checkpoints.steps() == []
