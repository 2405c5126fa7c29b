"""Restoring: exact lengths, the right selection, whole recordings in their time, any decoder of the right encoder."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from syllabary.shards import audio, dataset, store
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.parts import row_crc32cs
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.workers.archive.clips import ShardRestorer
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.archive.restore import restore, select, selection
from syllabary.workers.control.jobs import RESULT_PREFIX, RestoreJob
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.archive_corpus import RATE, make_archive, make_base, make_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a tokenizer and their archive, made without Ray."""
    return make_base(tmp_path_factory.mktemp("restore"))


def job_of(base: Path, out: Path | str, **values) -> RestoreJob:
    return RestoreJob(archive=str(base / "archive"), tokenizer=str(base / "tokenizer"), out=str(out), **values)


def rows_of(base: Path) -> list[dict]:
    return dataset.read_index(str(base / "shards")).to_pylist()


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_every_utterance_comes_back_exactly_as_long(base: Path, tmp_path: Path, audio_format: str) -> None:
    result = restore(job_of(base, tmp_path, audio_format=audio_format))
    rows = rows_of(base)
    assert result["num_utterances"] == result["num_files"] == len(rows) == 12 and result["bytes_read"] > 0
    for row in rows:
        info = soundfile.info(tmp_path / "audio" / f"{row['utterance_id']}.{audio_format}")
        assert (info.frames, info.samplerate, info.channels) == (row["num_samples"], RATE, 1)
    manifest = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert {m["utterance_id"] for m in manifest} == {r["utterance_id"] for r in rows}


def test_the_sound_is_what_the_tokenizer_decodes(base: Path, tmp_path: Path) -> None:
    row = rows_of(base)[5]
    restore(job_of(base, tmp_path, ids=(row["utterance_id"],), audio_format="wav"))
    tokenizer = Tokenizer.load(str(base / "tokenizer"))
    table = pq.read_table(base / f"archive/parts/{row['shard']}.parquet").to_pylist()
    tokens = next(np.array(r["tokens"]).reshape(-1, 19) for r in table if r["utterance_id"] == row["utterance_id"])
    expected = tokenizer.decode(tokens, row["num_samples"], RATE)
    restored, _ = soundfile.read(tmp_path / "audio" / f"{row['utterance_id']}.wav", dtype="int16")
    assert np.array_equal(restored, audio.to_int16(expected))


def test_where_limit_and_ids_select(base: Path, tmp_path: Path) -> None:
    assert restore(job_of(base, tmp_path / "a", where="speaker = '101'"))["num_utterances"] == 4
    assert restore(job_of(base, tmp_path / "b", where="speaker = '101' or split = 'valid'", limit=5))["num_files"] == 5
    ids = tuple(row["utterance_id"] for row in rows_of(base)[2:4])
    assert restore(job_of(base, tmp_path / "c", ids=ids))["num_utterances"] == 2


def test_a_whole_recording_is_joined_sample_exact_in_time(base: Path, tmp_path: Path) -> None:
    restore(job_of(base, tmp_path / "single", audio_format="wav"))
    result = restore(job_of(base, tmp_path / "joined", join=True, audio_format="wav"))
    assert result["num_files"] == 6 and result["num_utterances"] == 12
    rows = [r for r in rows_of(base) if r["recording_id"] == "101/book/chapter_1"]
    joined, _ = soundfile.read(tmp_path / "joined/audio/101/book/chapter_1.wav", dtype="int16")
    expected = np.zeros(max(r["start_sample"] + r["num_samples"] for r in rows), np.int16)
    for row in rows:
        own, _ = soundfile.read(tmp_path / "single/audio" / f"{row['utterance_id']}.wav", dtype="int16")
        expected[row["start_sample"] : row["start_sample"] + row["num_samples"]] = own
    assert len(rows) == 2 and np.array_equal(joined, expected)
    manifest = pq.read_table(tmp_path / "joined/manifest.parquet").to_pylist()
    assert all(m["offset_in_file"] == m["start_sample"] for m in manifest)


def test_a_time_range_of_a_recording_is_cut_from_the_whole(base: Path, tmp_path: Path) -> None:
    restore(job_of(base, tmp_path / "whole", recording="102/book/chapter_0", audio_format="wav"))
    range_job = job_of(base, tmp_path / "range", recording="102/book/chapter_0", start_s=0.25, end_s=1.75)
    restore(range_job.model_copy(update={"audio_format": "wav"}))
    whole, _ = soundfile.read(tmp_path / "whole/audio/102/book/chapter_0.wav", dtype="int16")
    part, _ = soundfile.read(tmp_path / "range/audio/102/book/chapter_0.wav", dtype="int16")
    assert np.array_equal(part, whole[4000:28000])


def test_another_decoder_restores_and_another_encoder_is_refused(base: Path, tmp_path: Path) -> None:
    sibling = make_tokenizer(str(tmp_path / "sibling"), decoder_seed=5)
    job = job_of(base, tmp_path / "out", limit=1)
    assert restore(job.model_copy(update={"tokenizer": sibling}))["num_files"] == 1
    other = make_tokenizer(str(tmp_path / "other"), seed=3)
    with pytest.raises(ConflictError, match=r"cannot restore .*encoder digest: '[0-9a-f]{16}'; expected [0-9a-f]{16}"):
        restore(job.model_copy(update={"tokenizer": other, "out": str(tmp_path / "no")}))
    assert not (tmp_path / "no").exists()


def test_restoring_again_keeps_files_and_finishes_what_was_killed(base: Path, tmp_path: Path) -> None:
    first = restore(job_of(base, tmp_path))
    files = sorted((tmp_path / "audio").rglob("*.flac"))
    kept, lost = files[0], files[1].read_bytes()
    kept_at = kept.stat().st_mtime_ns
    files[1].unlink()
    (tmp_path / "done.json").unlink()
    assert restore(job_of(base, tmp_path)) == first
    assert kept.stat().st_mtime_ns == kept_at and files[1].read_bytes() == lost
    with pytest.raises(ConflictError, match="belongs to another run"):
        restore(job_of(base, tmp_path, where="speaker = '101'"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"where": "speaker = 19"}, InputError, r"invalid --where: speaker is compared with 19.*'speaker = 19'"),
        ({"where": "speaker = '19'"}, NotFoundError, "no utterance is selected: \"speaker = '19'\""),
        ({"ids": ("nobody",)}, NotFoundError, "1 of 1 ids are not in the selection: 'nobody'"),
        ({"recording": "nothing"}, NotFoundError, "no utterance is selected: 'nothing'"),
        ({"start_s": 1.0}, InputError, "a time range without a recording"),
        ({"recording": "102/book/chapter_0", "start_s": 0.9, "end_s": 0.1}, InputError, r"ends .*: '0.9 to 0.1 s'"),
        ({"where": "speaker = '1') or (speaker = '2'"}, InputError, "did not expect"),
    ],
)
def test_a_selection_that_does_not_do_is_refused(
    base: Path, tmp_path: Path, values: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        restore(job_of(base, tmp_path / "out", **values))
    assert not (tmp_path / "out").exists()


def test_restores_from_and_to_s3(base: Path, s3) -> None:
    bucket = s3.bucket()
    for folder in ("archive", "tokenizer"):
        for entry in store.list_files(str(base / folder)):
            store.publish_bytes(store.join(bucket, folder, entry.name), store.read_bytes(entry.uri))
    job = RestoreJob(archive=f"{bucket}/archive", tokenizer=f"{bucket}/tokenizer", out=f"{bucket}/out", limit=2)
    assert restore(job)["num_files"] == 2
    restored = store.list_files(f"{bucket}/out/audio")
    lengths = [soundfile.info(io.BytesIO(store.read_bytes(e.uri))).frames for e in restored]
    assert len(lengths) == 2 and set(lengths) <= {r["num_samples"] for r in rows_of(base)}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("join", [False, True])
def test_actors_restore_their_shards_as_one_process_restores_all(
    base: Path, tmp_path: Path, join: bool, every: int
) -> None:
    ids = tuple(row["utterance_id"] for row in rows_of(base)[::every]) if every > 1 else ()
    restore(job_of(base, tmp_path / "one", join=join, ids=ids))
    job = job_of(base, tmp_path / "many", join=join, ids=ids, num_workers=2)
    actor = ShardRestorer(job.model_dump_json())
    reader = ArchiveReader.open(job.archive)
    selected = select(job, reader, selection(job, reader.schema))
    assert not selected.is_divided and len(selected.shards) == 3
    found = [
        actor({"shard": s, "places": json.dumps(selected.places[s], default=list), "recordings": json.dumps(own)})
        for s, own in reversed(selected.shards.items())
    ]
    assert [row["error"] for row in found] == ["", "", ""] and all(row["bytes_read"] > 0 for row in found)
    manifest = [row for own in found for row in json.loads(own["manifest"])]
    expected = pq.read_table(tmp_path / "one/manifest.parquet").to_pylist()
    assert sorted(manifest, key=lambda row: row["utterance_id"]) == expected
    assert audio_files(tmp_path / "many") == audio_files(tmp_path / "one")


def test_a_damaged_shard_is_the_one_line_of_its_actor(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    part = copy / "archive/parts/train-000001.parquet"
    actor = ShardRestorer(job_of(copy, tmp_path / "out", num_workers=2).model_dump_json())
    part.write_bytes(part.read_bytes()[:-50])
    found = actor({"shard": "train-000001", "places": "[[0, [0]]]", "recordings": json.dumps({"any": 1})})
    assert "footer does not parse" in found["error"] and "\n" not in found["error"] and found["kind"] == "DamageError"


def test_many_workers_restore_the_bytes_of_one(base: Path, tmp_path: Path) -> None:
    one = restore(job_of(base, tmp_path / "one"))
    job = job_of(base, tmp_path / "many", num_workers=2)
    command = [sys.executable, "-m", "syllabary.workers", "restore", job.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    many = json.loads(done.stdout.split(RESULT_PREFIX)[1])
    assert {**many, "bytes_read": 0} == {**one, "bytes_read": 0} and many["bytes_read"] > 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert "restore  12/12 utterances" in done.stderr


HOSTILE = ["../evil", "a/../../../../evil", "/evil", "{outside}/evil", "evil\0"]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("join", [False, True])
def test_an_archive_of_hostile_names_writes_nowhere_but_below_out(
    base: Path, tmp_path: Path, hostile: str, join: bool
) -> None:
    """A part as an attacker would make it, checksums and all."""
    name = hostile.format(outside=tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    archive, out = renamed_archive(base, tmp_path / "deep" / "archive", name), tmp_path / "deep" / "more" / "out"
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    job = RestoreJob(archive=archive, tokenizer=str(base / "tokenizer"), out=str(out), join=join)
    with pytest.raises(InputError, match="unsafe path"):
        restore(job)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written and all(out in path.parents for path in written)
    assert not (out / "done.json").exists() and not [*Path("/").glob("evil*")]


def renamed_archive(base: Path, archive: Path, name: str) -> str:
    """The archive of ``base`` with one utterance and its recording called ``name``."""
    shutil.copytree(base / "archive", archive)
    part = archive / "parts" / "train-000001.parquet"
    table = pq.read_table(part)
    for column in ("utterance_id", "recording_id"):
        values = table[column].to_pylist()
        values[1] = name
        field = table.schema.field(column)
        table = table.set_column(table.column_names.index(column), field, [values])
    crcs = pa.array(row_crc32cs(table), pa.uint32())
    table = table.set_column(table.column_names.index("crc32c"), table.schema.field("crc32c"), crcs)
    part.write_bytes(encode_part(table))
    return str(archive)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_time_range_reads_the_row_groups_it_needs_and_nothing_else(
    base: Path, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    """To the byte: footers, what the condition asks of the recording's row groups, once, all columns of the hits."""
    uri = str(tmp_path / "archive") if place == "local" else request.getfixturevalue("s3").bucket() + "/archive"
    tokenizer = str(base / "tokenizer")
    form = archive_format(Tokenizer.load(tokenizer, decoder=False))
    make_archive(uri, ("train-000000", "train-000001"), 2000, row_group_size=100, form=form)
    job = RestoreJob(archive=uri, tokenizer=tokenizer, out=str(tmp_path / "out"), recording="101/book/chapter_1")
    result = restore(job.model_copy(update={"start_s": 300.0, "end_s": 312.0}))
    part = io.BytesIO(store.read_bytes(f"{uri}/parts/train-000001.parquet"))
    rows, groups = pq.read_table(part), pq.read_metadata(part)
    spans = [(r["start_sample"] / RATE, (r["start_sample"] + r["num_samples"]) / RATE) for r in rows.to_pylist()]
    hits = [i for i in range(1000, 2000) if spans[i][1] > 300 and spans[i][0] < 312]
    assert result["num_utterances"] == len(hits) > 5
    asked = {"recording_id", "start_sample", "num_samples", "sample_rate"}
    selecting = {"utterance_id", "recording_id", "crc32c"}
    restoring = {*asked, "utterance_id", "speaker", "tokens.list.element"}
    matching = {i // 100 for i in hits}
    looked = sum(fetched_bytes(groups, group, asked) for group in range(10, 20))
    needed = sum(fetched_bytes(groups, group, own) for group in matching for own in (selecting, restoring))
    footers = 4 * (64 << 10)  # what Parquet fetches of a file's end: once to open the archive, twice to look, once more
    assert result["bytes_read"] == footers + looked + needed
    everything = sum(fetched_bytes(groups, group, restoring) for group in range(20))
    assert len(matching) <= 2 and looked + needed < everything / 4


def fetched_bytes(groups: pq.FileMetaData, group: int, columns: set[str]) -> int:
    """Stored bytes of some columns of a row group, and of holes up to 8 KiB between: Arrow asks for them at once."""
    chunks = [groups.row_group(group).column(i) for i in range(groups.num_columns)]
    own = [chunk for chunk in chunks if chunk.path_in_schema in columns]
    assert len(own) == len(columns)
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in own]
    stops = [start + chunk.total_compressed_size for start, chunk in zip(starts, own, strict=True)]
    holes = [start - stop for stop, start in zip(stops, starts[1:], strict=False)]
    return sum(chunk.total_compressed_size for chunk in own) + sum(hole for hole in holes if hole <= 8 << 10)


def audio_files(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name.startswith("audio/")}


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
