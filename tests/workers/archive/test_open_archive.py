"""An archive as users import it: rows in order, conditions, times of a recording, and their sound."""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from syllabary import Tokenizer, open_archive
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.workers.recipes.bitrates import packing_of
from tests.helpers.archive_corpus import RATE, make_archive, make_tokenizer, utterance_rows

SHARDS = ["train-000000", "train-000001"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(make_tokenizer(str(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture(scope="module")
def archive(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("archive"))
    config = tokenizer.config
    form = ArchiveFormat(tokenizer.encoder_digest, "c" * 64, packing_of(config), RATE, config.framing.hop_length)
    make_archive(uri, SHARDS, num_utterances=6, row_group_size=2, form=form)
    return uri


EXPECTED = [row for seed, shard in enumerate(SHARDS) for row in utterance_rows(shard, seed, 6)]


def test_every_row_comes_once_in_order_with_its_tokens(archive: str) -> None:
    opened = open_archive(archive)
    found = list(opened)
    assert [one.utterance_id for one in found] == [row["utterance_id"] for row in EXPECTED]
    assert [one.row["speaker"] for one in found] == [row["speaker"] for row in EXPECTED]
    assert [one.start_s for one in found] == [row["start_sample"] / RATE for row in EXPECTED]
    for one, row in zip(found, EXPECTED, strict=True):
        frames = -(-row["num_samples"] // 6_400)
        assert one.tokens.shape == (frames, 19) and one.tokens.dtype == np.uint16 and one.salience.shape == (frames,)
    assert {"speaker", "tokens", "language"} <= {*opened.columns}


def test_conditions_narrow_one_another_and_read_only_what_can_match(archive: str) -> None:
    opened = open_archive(archive)
    narrowed = opened.where("speaker = '101'").where("start_s > 0.5")
    wanted = [row["utterance_id"] for row in EXPECTED if row["speaker"] == "101" and row["start_sample"] > RATE / 2]
    assert [one.utterance_id for one in narrowed] == wanted and wanted
    assert opened._reader.num_row_groups_read <= 3  # of 6: those of the other speaker are not read
    with pytest.raises(InputError, match="no column"):
        opened.where("nobody = 'x'")


def test_a_time_range_sounds_as_its_utterances_do_with_silence_between(archive: str, tokenizer: Tokenizer) -> None:
    opened = open_archive(archive)
    recording = EXPECTED[0]["recording_id"]
    rows = [row for row in EXPECTED if row["recording_id"] == recording]
    first, second = rows[0], rows[1]
    sounds = [one.to_audio(tokenizer).samples for one in opened[recording]]
    assert [len(sound) for sound in sounds] == [row["num_samples"] for row in rows]
    start, end = 0.1, (second["start_sample"] + 800) / RATE
    part = opened[recording].between(start, end)
    assert [one.utterance_id for one in part] == [first["utterance_id"], second["utterance_id"]] and len(part) == 2
    samples, rate = part.to_audio(tokenizer)
    gap = np.zeros(second["start_sample"] - first["num_samples"], np.float32)
    by_hand = np.concatenate([sounds[0][1_600:], gap, sounds[1][:800]])
    assert rate == RATE and np.array_equal(samples, by_hand)
    whole = opened[recording].to_audio(tokenizer).samples
    assert np.array_equal(whole[1_600 : 1_600 + len(samples)], samples)
    assert np.array_equal(part.between(0.2, 100).to_audio(tokenizer).samples, samples[1_600:])
    of_numpy = opened[recording].between(np.float64(start), np.float32(1e9))
    assert [one.utterance_id for one in of_numpy] == [row["utterance_id"] for row in rows]
    rest = opened[recording].between(start, float("inf")).to_audio(tokenizer).samples
    assert np.array_equal(rest, whole[1_600:])


def test_a_recording_is_in_its_archive_and_asked_for_by_its_id(archive: str) -> None:
    opened = open_archive(archive)
    recording = EXPECTED[0]["recording_id"]
    assert recording in opened and "nobody's" not in opened and 0 not in opened
    assert recording not in opened.where("speaker = '101'")
    with pytest.raises(InputError, match=r"a recording of an archive: 0; expected its recording_id; iterate"):
        opened[0]  # type: ignore[index]


def test_nothing_there_and_a_wrong_tokenizer_are_refused(archive: str, tmp_path: Path) -> None:
    opened = open_archive(archive)
    with pytest.raises(NotFoundError, match="no utterance lies there"):
        opened["no-such' recording"].to_audio()
    with pytest.raises(InputError, match="3 to 2 s"):
        opened["x"].between(3, 2)
    with pytest.raises(NotFoundError, match="no tokenizer at hand"):
        next(iter(opened)).to_audio()
    other = Tokenizer.load(make_tokenizer(str(tmp_path / "other"), seed=1))
    with pytest.raises(ConflictError, match="cannot restore"):
        next(iter(opened)).to_audio(other)
    with pytest.raises(NotFoundError):
        open_archive(str(tmp_path / "none"))


def test_the_builtin_is_found_by_the_digest(tmp_path: Path) -> None:
    shipped = Tokenizer.from_pretrained("speech16k", decoder=False)
    config = shipped.config
    form = ArchiveFormat(shipped.encoder_digest, "c" * 64, packing_of(config), RATE, config.framing.hop_length)
    make_archive(str(tmp_path / "archive"), SHARDS[:1], num_utterances=2, form=form)
    opened = open_archive(str(tmp_path / "archive"))
    one = next(iter(opened.where("duration_s > 0")))
    assert len(one.to_audio().samples) == one.row["num_samples"]
    assert opened.tokenizer.digests.encoder == shipped.encoder_digest


def test_the_archives_own_tokenizer_comes_first(archive: str, tokenizer: Tokenizer) -> None:
    tokenizer.save_pretrained(f"{archive}/tokenizer")
    opened = open_archive(archive)
    one = next(iter(opened))
    assert np.array_equal(one.to_audio().samples, one.to_audio(tokenizer).samples)


def test_memory_stays_that_of_a_row_group(tmp_path: Path) -> None:
    """Most that Python and Arrow hold over an archive and over one eight times as long.

    Arrow's threads let go of what they read a moment late, now and then: the least of three is what is held.
    """

    def most(num_shards: int) -> tuple[int, int]:
        made = tmp_path / f"of_{num_shards}"
        make_archive(str(made), [f"train-{i:06}" for i in range(num_shards)], num_utterances=200, row_group_size=100)
        copies = [shutil.copytree(made, f"{made}_{i}") for i in range(3)]  # nothing kept from one serves the next
        objects, arrow = zip(*(_most_held(copy, 200 * num_shards) for copy in copies), strict=True)
        return min(objects), min(arrow)

    objects, arrow = most(1)
    objects_of_8, arrow_of_8 = most(8)
    assert objects_of_8 < 1.3 * objects
    assert arrow_of_8 < 1.3 * arrow
    assert ArchiveReader.open(str(tmp_path / "of_8")).num_row_groups_read == 0


def _most_held(uri: str, num_rows: int) -> tuple[int, int]:
    """The most objects of Python and bytes of Arrow that are held beside the row at hand while an archive is read.

    Objects are counted by the interpreter itself: tracemalloc's hooks, taken out while a thread of Arrow lets go of
    something, have ended the process (python/cpython#128679).
    """
    import pyarrow as pa

    opened = open_archive(uri)
    gc.collect()
    objects, arrow = sys.getallocatedblocks(), pa.total_allocated_bytes()
    most_objects = most_arrow = count = 0
    for _ in opened:
        count += 1
        most_objects = max(most_objects, sys.getallocatedblocks() - objects)
        most_arrow = max(most_arrow, pa.total_allocated_bytes() - arrow)
    assert count == num_rows
    return most_objects, most_arrow
