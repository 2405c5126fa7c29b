"""Any bytes at all: sniffers and readers say in one line what is wrong, and lose no sample of what is right."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syllabary.shards.errors import SyllabaryError
from syllabary.shards.ingest.decoding.decoder import Decoder, decodable, is_audio
from syllabary.shards.ingest.recordings import RecordingError
from syllabary.shards.ingest.sources.flat import flat_line, table_lines
from syllabary.shards.ingest.sources.lines import speaker_above
from syllabary.shards.ingest.sources.listing import is_tar, list_source, tell_source
from tests.helpers.ingest_testing import RATE, config, tone

LENGTH = RATE // 2
SOUNDS = {}
for _fmt, _subtype in (("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("WAV", None), ("AIFF", None),
                       ("CAF", None), ("W64", None), ("AU", None), ("NIST", None), ("VOC", None)):  # fmt: skip
    _buffer = io.BytesIO()
    soundfile.write(_buffer, tone(0.5), RATE, format=_fmt, subtype=_subtype)
    SOUNDS[f"{_fmt} {_subtype}"] = _buffer.getvalue()

HEADS = [
    b"", b"fLaC", b"fLaC\0\0\0\x22", b"OggS", b"RIFF\0\0\0\0WAVE", b"RF64\xff\xff\xff\xffWAVEds64", b"FORM", b"caff",
    b"riff", b".snd", b"NIST_1A\n   1024\n", b"ID3\4\0\0\0\0\1\0", b"\xff\xfb\x90\x00", b"Creative Voice File\x1a",
    b"2BIT", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data",
]  # fmt: skip


def decode(data: bytes) -> tuple[int, list[str]] | str:
    """Frames that were decoded and notes, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(data)
        found = decodable(path)
        assert found.num_frames >= 0
        try:
            with Decoder(path) as decoder:
                while len(decoder.read(7000)):
                    pass
                return decoder.num_decoded, decoder.notes
        except RecordingError as error:
            assert "\n" not in str(error)
            return str(error)


@settings(max_examples=150)
@given(st.sampled_from(HEADS), st.binary(max_size=300))
@example(b"RIFF\0\0\0\0WAVE", b"data\xff\xff\xff\xff")
@example(b"RF64\xff\xff\xff\xffWAVEds64", b"\x04\0\0\0\1\0\0\0data\xff\xff\xff\xff")
@example(b"RIFF\0\0\0\0WAVE", b"fact\4\0\0\0")
@example(b".snd", b"")
@example(b"ID3\4\0\0\0\0\1\0", b"ID3")
def test_any_bytes_are_audio_or_one_line(head: bytes, body: bytes) -> None:
    decode(head + body)
    is_audio(head + body)
    is_tar(head + body)


@settings(max_examples=200)
@given(st.sampled_from(sorted(SOUNDS)), st.data())
def test_no_change_of_a_file_loses_sound_without_a_word(name: str, data: st.DataObject) -> None:
    """Cut anywhere, a byte changed anywhere, bytes put behind: all samples, a note, or a reason."""
    sound = SOUNDS[name]
    kind = data.draw(st.sampled_from(["cut", "change", "append", "twice"]))
    pages = [at for at in range(len(sound)) if sound.startswith(b"OggS", at)]
    at = data.draw(st.integers(0, len(sound) - 1) | st.sampled_from([0, *pages]))
    if kind == "cut":
        changed = sound[:at]
    elif kind == "change":
        changed = sound[:at] + bytes([sound[at] ^ data.draw(st.integers(1, 255))]) + sound[at + 1 :]
    else:
        changed = sound + (sound if kind == "twice" else data.draw(st.binary(min_size=1, max_size=64)))
    found = decode(changed)
    if isinstance(found, str):
        return
    decoded, notes = found
    if kind == "twice":
        assert decoded >= 2 * LENGTH
    elif kind == "append":
        assert decoded >= LENGTH
    elif kind == "cut":
        assert decoded >= LENGTH or notes


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([
    "path", "audio_filepath", "speaker", "text", "offset", "duration", "start_s", "end_s", "recording", "supervisions",
    "sources", "start", "type", "id", "recording_id", "lang", "gender",
])  # fmt: skip
records = st.dictionaries(names | st.text(max_size=6), values | st.sampled_from(["a.flac", "s3x/b.wav"]), max_size=7)


@given(records)
def test_any_record_is_a_line_or_one_line_of_refusal(record: dict[str, Any]) -> None:
    try:
        line = flat_line(record, 1, "list line 1")
    except SyllabaryError as error:
        assert "list line 1" in str(error) and "\n" not in str(error)
        return
    assert line.recording_id and "\n" not in line.recording_id
    assert speaker_above(line.path)
    used = {line.path, line.speaker, line.text, line.language, line.gender}
    assert len(record) <= len(line.extra) + len([own for own in used if own]) + 12


@settings(max_examples=120)
@given(st.lists(records, max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_any_list_of_records_is_read_or_refused_in_one_line(found: list, end: str, packed: bool, listed: bool) -> None:
    text = json.dumps(found) if listed else end.join(json.dumps(own) for own in found)
    _read(gzip.compress(text.encode()) if packed else text.encode())


@settings(max_examples=150)
@given(st.sampled_from([b"", b"{", b'{"path":', b"path,text\n", b"path\ttext\n", b"a|b c|d\n", b"\x1f\x8b", b"PAR1"]),
       st.binary(max_size=200) | st.text(max_size=100).map(str.encode))  # fmt: skip
def test_any_file_is_a_list_or_refused_in_one_line(head: bytes, body: bytes) -> None:
    _read(head + body)


words = st.text(st.sampled_from('ab ,;|\t"\n\r') | st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(words, words), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example([('"', "x\n\n"), ("\n", '"')], ",", "\n", csv.QUOTE_MINIMAL)
def test_no_row_of_a_table_is_lost_whatever_its_fields_hold(rows: list, delimiter: str, end: str, how: Any) -> None:
    """As many lines as rows, with their texts; where quotes may mean nothing (tab, ``|``), or a refusal."""
    if how == csv.QUOTE_MINIMAL:  # the writer puts no quotes about line ends that are not its own
        rows = [[word.translate({ord(own): " " for own in set("\n\r") - set(end)}) for word in row] for row in rows]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=how)
    writer.writerow(["path", "text", "speaker"])
    writer.writerows((f"{number}.flac", *row) for number, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(buffer.getvalue().encode())
        try:
            found = list(table_lines(str(path)))
        except SyllabaryError as error:
            assert delimiter in "\t|" and "\n" not in str(error)
            return
    assert [line.path for line in found] == [f"{number}.flac" for number in range(len(rows))]
    if delimiter in ",;" or how == csv.QUOTE_ALL:
        expected = [(text.strip() or None, speaker.strip() or None) for text, speaker in rows]
        assert [(line.text, line.speaker) for line in found] == expected


@settings(max_examples=150)
@given(st.lists(st.tuples(words, words), min_size=2, max_size=5), st.data())
def test_quotes_too_many_or_too_few_lose_no_row_without_a_word(rows: list, data: st.DataObject) -> None:
    """One or two of them, put in or taken out anywhere, or where a field begins or ends."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["path", "text", "speaker"], *((f"{n}.flac", *row) for n, row in enumerate(rows))])
    text = buffer.getvalue()
    first = text.index("\n") + 1
    ends = [at + more for at in range(first, len(text) - 1) if text[at] in ",\r" for more in (0, 1)]
    places = data.draw(st.sets(st.integers(first, len(text) - 1) | st.sampled_from(ends), min_size=1, max_size=2))
    changed = "".join(
        own if at not in places else "" if own == '"' else '"' + own for at, own in enumerate(text)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(changed.encode())
        try:
            found = list(table_lines(str(path)))
        except SyllabaryError as error:
            assert "\n" not in str(error)
            return
    assert len(found) >= len(rows)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(["wav.scp", "segments", "utt2spk", "text"]), st.text(max_size=80), min_size=1))
def test_any_kaldi_directory_is_read_or_refused_in_one_line(tables: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in tables.items():
            (Path(folder) / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        _listed(folder, layout="kaldi")


def _read(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list"
        path.write_bytes(data)
        _listed(str(path))


def _listed(source: str, **values: Any) -> None:
    try:
        told = tell_source(source, config(**values))
        if not told.is_streamed:
            recordings = list_source(told, config(**values)).recordings
            assert len({own.recording_id for own in recordings}) == len(recordings)
    except SyllabaryError as error:
        assert "\n" not in str(error)
