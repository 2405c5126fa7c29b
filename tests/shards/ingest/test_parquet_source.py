"""Who speaks in the rows of Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards.ingest.sources.parquet import ParquetStream


def test_a_speaker_is_named_or_the_folder_of_the_audios_path_and_never_the_parquet(tmp_path: Path) -> None:
    """Rows without a name of their own are called by the file and the row, which is nobody's folder."""
    named_and_paths = [
        ("ann", None), (None, "spk7/a.flac"), (None, "/data/spk8/a.flac"), (None, None), (None, "b.flac"),
        (None, "b.flac"), (None, "wavs/c.flac"),
    ]  # fmt: skip
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.array([{"bytes": b"fLaC", "path": path} for _, path in named_and_paths], kind)
    speakers = pa.array([speaker for speaker, _ in named_and_paths], pa.string())
    pq.write_table(pa.table({"audio": audio, "speaker": speakers}), tmp_path / "d.parquet")
    stream = ParquetStream(str(tmp_path / "d.parquet"), tmp_path)
    found = {one.recording.recording_id: one.recording.speaker for one in stream.recordings()}
    assert found == {
        "d.parquet/000000": "ann", "spk7/a": "spk7", "data/spk8/a": "spk8", "d.parquet/000003": "unknown",
        "b": "unknown", "d.parquet/000005-b": "unknown", "wavs/c": "unknown",
    }  # fmt: skip
    assert stream.notes == ["4 of 7 recordings name no speaker: unknown"]
