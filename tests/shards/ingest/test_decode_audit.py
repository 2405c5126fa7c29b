"""Seconds are counted from decoded bytes and held against what the container promises: nothing is lost in silence."""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from syllabary.shards.ingest.decoding.chunks import end_of_form
from syllabary.shards.ingest.decoding.decoder import Decoder, is_audio, parts_of
from syllabary.shards.ingest.decoding.flac import flac_parts
from syllabary.shards.ingest.decoding.mpeg import frame_at
from syllabary.shards.ingest.decoding.ogg import page_checksum
from syllabary.shards.ingest.recordings import RecordingError
from tests.helpers.ingest_testing import RATE, config, flac_bytes, ledger_of, shard, tone

LENGTH = 2 * RATE


def encoded(fmt: str, subtype: str | None = None, *, seconds: float = 2, seed: int = 0, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, rate, seed), rate, format=fmt, subtype=subtype)
    return buffer.getvalue()


def with_total(data: bytes, total: int) -> bytes:
    """A FLAC whose header counts ``total`` samples: the low 36 bits of bytes 18 to 26."""
    packed = int.from_bytes(data[18:26]) & ~((1 << 36) - 1) | total
    return data[:18] + packed.to_bytes(8) + data[26:]


def with_md5(data: bytes, md5: bytes) -> bytes:
    return data[:26] + md5 + data[42:]


def decode(tmp_path: Path, data: bytes) -> tuple[int | None, int, list[str]]:
    """(promised, decoded, notes)."""
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with Decoder(path) as decoder:
        while len(decoder.read(7001)):
            pass
        return decoder.promised, decoder.num_decoded, decoder.notes


def ingested(tmp_path: Path, data: bytes, name: str = "bad.flac", **values: Any) -> list[dict[str, Any]]:
    """The ledger rows of a file in a corpus with a good one, which all must account for its seconds."""
    root = tmp_path / "in"
    root.mkdir()
    (root / name).write_bytes(data)
    (root / "good.flac").write_bytes(flac_bytes(tone(2, seed=9)))
    summary = shard(root, tmp_path / "out", config(**{"coverage": "all", **values}))
    rows = ledger_of(tmp_path / "out")
    total = sum(row["num_samples"] / max(1, row["sample_rate"]) for row in rows)
    assert summary["input_s"] == pytest.approx(total, abs=1e-3)
    return [row for row in rows if row["source"] == name]


def stored(rows: list[dict[str, Any]]) -> int:
    return sum(row["num_samples"] for row in rows if row["status"] == "shard")


def quarantined(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    assert row["status"] == "quarantined"
    return str(row["detail"])


@pytest.mark.parametrize("coverage", ["all", "speech"])
def test_a_flac_of_unknown_length_is_decoded_whole(tmp_path: Path, coverage: str) -> None:
    rows = ingested(tmp_path, with_total(encoded("FLAC"), 0), coverage=coverage)
    assert sum(row["num_samples"] for row in rows) == LENGTH
    assert stored(rows) == LENGTH if coverage == "all" else stored(rows) > LENGTH // 2
    assert {row["promised_samples"] for row in rows} == {None}


@pytest.mark.parametrize("total", [LENGTH - 5000, LENGTH + 5000])
def test_a_flac_header_that_counts_wrongly_is_mended_where_the_md5_is_right(tmp_path: Path, total: int) -> None:
    rows = ingested(tmp_path, with_total(encoded("FLAC"), total))
    assert stored(rows) == LENGTH
    assert rows[0]["promised_samples"] == total
    assert "MD5 is right" in rows[0]["note"]


@pytest.mark.parametrize("total", [LENGTH - 5000, LENGTH + 5000])
def test_without_an_md5_both_lengths_are_named(tmp_path: Path, total: int) -> None:
    detail = quarantined(ingested(tmp_path, with_md5(with_total(encoded("FLAC"), total), bytes(16))))
    assert f"{total:,} samples, {LENGTH:,} are there" in detail


def test_a_wrong_md5_is_quarantined_and_none_is_taken(tmp_path: Path) -> None:
    assert quarantined(ingested(tmp_path, with_md5(encoded("FLAC"), b"x" * 16))) == (
        "damaged audio (wrong MD5 of the samples)"
    )
    assert decode(tmp_path, with_md5(encoded("FLAC"), bytes(16))) == (LENGTH, LENGTH, [])


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_md5_of_any_width_and_channels_is_right(tmp_path: Path, subtype: str, channels: int) -> None:
    """libFLAC wrote it: a different count of ours would refuse the file."""
    buffer = io.BytesIO()
    wave = np.stack([tone(1, seed=number) for number in range(channels)], 1)
    soundfile.write(buffer, wave, RATE, format="FLAC", subtype=subtype)
    assert any(buffer.getvalue()[26:42])
    assert decode(tmp_path, buffer.getvalue()) == (RATE, RATE, [])


CHAINS = [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("WAV", "PCM_16"), ("WAV", "IMA_ADPCM")]


@pytest.mark.parametrize(("fmt", "subtype"), CHAINS)
def test_every_link_of_a_chain_is_stored(tmp_path: Path, fmt: str, subtype: str | None) -> None:
    one, two = encoded(fmt, subtype), encoded(fmt, subtype, seconds=1, seed=1)
    lengths = [decode(tmp_path, data)[1] for data in (one, two)]
    rows = ingested(tmp_path, one + two + one)
    assert stored(rows) == rows[0]["promised_samples"] == 2 * lengths[0] + lengths[1]
    assert rows[0]["note"] == "3 streams in one file"


@pytest.mark.parametrize(("fmt", "subtype"), [chain for chain in CHAINS if chain[0] != "MP3"])
def test_links_of_different_rates_are_refused_by_name(tmp_path: Path, fmt: str, subtype: str | None) -> None:
    data = encoded(fmt, subtype) + encoded(fmt, subtype, rate=24_000)
    assert "streams of different kinds in one file (16000 Hz" in quarantined(ingested(tmp_path, data))


@pytest.mark.parametrize("fmt", ["AIFF", "AU", "CAF", "W64", "NIST", "VOC", "AVR"])
def test_a_second_file_behind_the_first_is_told(tmp_path: Path, fmt: str) -> None:
    data = encoded(fmt, "PCM_16")
    assert decode(tmp_path, data) == (LENGTH, LENGTH, [])
    assert "bytes behind the end of the audio" in quarantined(ingested(tmp_path, data + data, f"bad.{fmt.lower()}.wav"))


@pytest.mark.parametrize("too_few", [5000, LENGTH // 2])
@pytest.mark.parametrize("fmt", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "VOC", "AVR"])
def test_no_size_in_a_header_that_is_too_small_loses_sound(tmp_path: Path, fmt: str, too_few: int) -> None:
    """Every number of the header that may count bytes or samples of the sound, made smaller: all of it, or a reason."""
    data = encoded(fmt, "PCM_16")
    head, changed = len(data) - 2 * LENGTH, 0
    for at in range(head - 3):
        for width, order in ((4, "little"), (4, "big"), (3, "little")):
            said = int.from_bytes(data[at : at + width], order)  # type: ignore[arg-type]
            if said != LENGTH and not 2 * LENGTH <= said <= len(data):
                continue
            less = (said - too_few * (1 if said == LENGTH else 2)).to_bytes(width, order)  # type: ignore[arg-type]
            changed += 1
            try:
                assert decode(tmp_path, data[:at] + less + data[at + width :])[1] == LENGTH
            except RecordingError as error:
                assert any(character.isdigit() for character in str(error)) or "not readable" in str(error)
    assert changed or fmt == "NIST"  # its numbers are words


@pytest.mark.parametrize(("size", "is_chunk"), [(10, True), (11, True), (12, False), (20, False)])
def test_what_follows_the_sound_of_an_aiff_is_a_chunk_where_it_ends_with_its_form(size: int, is_chunk: bool) -> None:
    """Or one byte behind it: writers differ in whether the last chunk's padding counts."""
    sound = b"FORM\0\0\0\0AIFF" + b"SSND" + (4).to_bytes(4, "big") + bytes(4)
    stop = len(sound) + 8 + 10
    data = sound + b"ANNO" + size.to_bytes(4, "big") + bytes(40)
    assert end_of_form(data, stop) == (stop if is_chunk else len(sound))


@pytest.mark.parametrize("fmt", ["AIFF", "CAF", "AU"])
def test_zeros_and_tags_behind_the_end_are_no_sound(tmp_path: Path, fmt: str) -> None:
    data = encoded(fmt, "PCM_16")
    for behind in (bytes(4096), b"TAG".ljust(128, b"\0"), b"\0"):
        assert decode(tmp_path, data + behind)[1] == LENGTH
    with pytest.raises(RecordingError, match="bytes behind the end"):
        decode(tmp_path, data + b"some words")


@pytest.mark.parametrize("fmt", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "VOC", "AVR", "OGG", "MP3", "FLAC"])
def test_a_file_that_was_cut_off_ends_early(tmp_path: Path, fmt: str) -> None:
    data = encoded(fmt)
    detail = quarantined(ingested(tmp_path, data[: len(data) * 2 // 3], "bad.wav"))
    assert "ends early" in detail or "damaged audio" in detail
    assert any(character.isdigit() for character in detail) or fmt == "FLAC"
    assert detail.startswith("audio ends early") or fmt == "FLAC"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_damaged_ogg_page_is_not_passed_over(tmp_path: Path, subtype: str) -> None:
    data = bytearray(encoded("OGG", subtype))
    data[len(data) * 3 // 4] ^= 0x40
    assert "wrong checksum of the Ogg page" in quarantined(ingested(tmp_path, bytes(data)))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_was_cut_off_between_two_pages_is_noted(tmp_path: Path, subtype: str) -> None:
    """Recorders that are killed leave such files: what is there is stored, and the last page is missed."""
    data = encoded("OGG", subtype, seconds=9)
    last = data.rfind(b"OggS")
    rows = ingested(tmp_path, data[:last] + data, "a.ogg")
    notes = "Ogg without its last page, so that it may have been cut off there"
    assert {row["note"] for row in rows if row["start_sample"] == 0} == {f"2 streams in one file; {notes}"}
    assert decode(tmp_path, data)[2] == []
    assert decode(tmp_path, data[:last])[2] == [notes]


def test_the_checksum_of_an_ogg_page_is_that_of_the_format() -> None:
    """The first page of a file that libogg wrote."""
    data = encoded("OGG", "VORBIS")
    size = 27 + data[26] + sum(data[27 : 27 + data[26]])
    assert page_checksum(data[:size]) == int.from_bytes(data[22:26], "little")
    assert page_checksum(data[: size - 1] + b"\xff") != int.from_bytes(data[22:26], "little")


def test_bytes_behind_a_flac_that_are_no_audio_are_told(tmp_path: Path) -> None:
    data = encoded("FLAC")
    assert decode(tmp_path, data + b"junk" * 500) == (LENGTH, LENGTH, ["bytes behind the end that are no audio"])
    assert decode(tmp_path, data + b"TAG".ljust(128, b"\0")) == (LENGTH, LENGTH, [])
    with pytest.raises(RecordingError, match="counts 32,000 samples, what follows them does not decode"):
        decode(tmp_path, with_md5(data, bytes(16)) + b"junk" * 500)


@pytest.mark.parametrize("size", [41, 42, 43])
def test_a_flac_of_its_stream_info_alone_promises_what_that_says(tmp_path: Path, size: int) -> None:
    """The mark of 4 bytes, a block's header of 4 and its 34: in 42 bytes all is told."""
    (tmp_path / "x.flac").write_bytes(encoded("FLAC")[:size])
    with (tmp_path / "x.flac").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (part,) = flac_parts(data, 0)
    assert (part.promised, part.believed) == ((LENGTH, True) if size >= 42 else (None, False))


def xing_at(data: bytes) -> int:
    return max(data.find(b"Xing"), data.find(b"Info"))


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_xing_header_that_counts_wrongly_loses_no_frame(tmp_path: Path, factor: float) -> None:
    data = bytearray(encoded("MP3"))
    at = xing_at(data)
    told = int.from_bytes(data[at + 8 : at + 12])
    data[at + 8 : at + 12] = int(told * factor).to_bytes(4)
    promised, decoded, notes = decode(tmp_path, bytes(data))
    assert promised == int(told * factor) * 576
    assert told * 576 - 576 <= decoded <= told * 576, "each frame of 576; the decoder keeps its delay of 529"
    assert "header promises" in notes[0]


def test_an_mp3_without_a_xing_header_is_counted_by_its_frames(tmp_path: Path) -> None:
    """Of changing bitrate, so that a length guessed from the first frame would be wrong."""
    data = encoded("MP3", seconds=6)
    frame = frame_at(data, 0)
    assert frame is not None
    bare = data[frame.size :]
    told = int.from_bytes(data[xing_at(data) + 8 : xing_at(data) + 12])
    promised, decoded, _ = decode(tmp_path, bare)
    assert promised == decoded
    assert told * 576 - 576 <= decoded <= told * 576
    assert decode(tmp_path, bare + bare)[1] > 2 * decoded - 576


@pytest.mark.parametrize("left", [4, 5, -1], ids=["its header", "a byte more", "all but a byte"])
def test_an_mp3_without_a_xing_header_that_was_cut_off_in_a_frame_says_so(tmp_path: Path, left: int) -> None:
    data = encoded("MP3")
    starts, at = list[int](), 0
    while (frame := frame_at(data, at)) is not None:
        starts.append(at)
        at += frame.size
    num_whole = int.from_bytes(data[xing_at(data) + 8 : xing_at(data) + 12]) - 1
    cut = data[starts[1] : starts[-1] + left] if left > 0 else data[starts[1] : at + left]
    with pytest.raises(RecordingError, match=rf"audio ends early \(in a frame, after {num_whole * 576:,} samples\)"):
        decode(tmp_path, cut)


APE_TAG = (
    b"APETAGEX" + (2000).to_bytes(4, "little") + (40).to_bytes(4, "little") + bytes(16) + b"value".ljust(40, b"\1")
)


@pytest.mark.parametrize("tag", [b"LYRICSBEGININD0000200LYR00005hello000034LYRICS200", APE_TAG], ids=["Lyrics3", "APE"])
def test_a_tag_behind_the_frames_of_an_mp3_is_passed(tmp_path: Path, tag: bytes) -> None:
    """Each with the ID3v1 tag that follows it: both come before that, as their formats say."""
    data = encoded("MP3")
    assert decode(tmp_path, data + tag + b"TAG".ljust(128, b"\0")) == decode(tmp_path, data)


def test_an_mp3_that_ends_between_two_frames_before_its_xing_header_says_so(tmp_path: Path) -> None:
    """Nothing but the header's counts of frames and bytes tells that more was there."""
    data = encoded("MP3")
    told = int.from_bytes(data[xing_at(data) + 8 : xing_at(data) + 12])
    starts, at = list[int](), 0
    while (frame := frame_at(data, at)) is not None:
        starts.append(at)
        at += frame.size
    assert len(starts) == told + 1, "the frame with the header counts none"
    with pytest.raises(RecordingError, match=f"promises {told * 576:,} samples, {(told - 3) * 576:,} are there"):
        decode(tmp_path, data[: starts[-3]])


@pytest.mark.parametrize("size", [4, 41, 42, 43])
def test_a_flac_of_its_header_alone_is_no_sound(tmp_path: Path, size: int) -> None:
    rows = ingested(tmp_path, encoded("FLAC")[:size], "a.flac")
    assert (rows[0]["status"], rows[0]["num_samples"]) == ("quarantined", 0)


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_a_vbri_header_counts_as_a_xing_header_does(tmp_path: Path, factor: float) -> None:
    """Fraunhofer's, 32 bytes behind the first four, wherever the side information ends: bytes, then frames. The decoder
    does not know it: of a file whose header counts right it would give what it guesses from the first frame, half."""
    data = bytearray(encoded("MP3"))
    at = xing_at(data)
    told = int(int.from_bytes(data[at + 8 : at + 12]) * factor)
    data[at : at + 4] = bytes(4)
    data[36:54] = b"VBRI" + bytes(6) + len(data).to_bytes(4) + told.to_bytes(4)
    promised, decoded, notes = decode(tmp_path, bytes(data))
    assert promised == (told * 576 if factor != 1 else decoded) and bool(notes) == (factor != 1)
    whole = int(told / factor) * 576
    assert whole - 576 <= decoded <= whole


@pytest.mark.parametrize("parity", [0, 1])
def test_a_stream_of_flac_is_found_behind_another_at_any_byte(tmp_path: Path, parity: int) -> None:
    first = next(data for seed in range(99) if len(data := encoded("FLAC", seed=seed)) % 2 == parity)
    second = encoded("FLAC", seconds=1, seed=5)
    assert decode(tmp_path, first + second)[1] == LENGTH + RATE
    assert [part.pieces[0][0] for part in parts_of(tmp_path / "x.bin")] == [0, len(first)]


@pytest.mark.parametrize("fmt", ["FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "WAV", "MP3"])
def test_the_first_bytes_tell_what_is_audio(fmt: str) -> None:
    assert is_audio(encoded(fmt)[:4096])
    assert not is_audio(b"x" + encoded(fmt)[:4096])


def test_an_mp3_behind_zeros_and_tags_is_decoded(tmp_path: Path) -> None:
    data = encoded("MP3")
    assert decode(tmp_path, bytes(3000) + data)[1] == LENGTH
    assert decode(tmp_path, b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + data + b"TAG".ljust(128, b"\0"))[1] == LENGTH


def test_junk_between_mp3_frames_is_told(tmp_path: Path) -> None:
    data = encoded("MP3")
    with pytest.raises(RecordingError, match=r"no MPEG frame at byte 5,\d+ of 9,\d+"):
        decode(tmp_path, data[:5000] + b"junk" * 100 + data[5000:])


@pytest.mark.parametrize(
    ("kbits", "rate", "size", "num_samples"),
    [(128, 44_100, 417, 1152), (320, 48_000, 960, 1152), (64, 22_050, 208, 576), (8, 8000, 72, 576)],
)
def test_the_size_of_an_mp3_frame(kbits: int, rate: int, size: int, num_samples: int) -> None:
    """144 (or 72) * bitrate / rate, as ISO 11172-3 and 13818-3 have it."""
    tables = {44_100: (0xFB, 9, 0), 48_000: (0xFB, 14, 1), 22_050: (0xF3, 8, 0), 8000: (0xE3, 1, 2)}
    second, index, rate_index = tables[rate]
    frame = frame_at(bytes([0xFF, second, index << 4 | rate_index << 2, 0xC0]), 0)
    assert frame is not None
    assert (frame.size, frame.num_samples, frame.rate) == (size, num_samples, rate)
    assert size == (144 if num_samples == 1152 else 72) * kbits * 1000 // rate


def octaves(number: int) -> int:
    """Four steps to a doubling: 32, 40, 48, 56, 64, 80 and on to 384."""
    return (32 + 8 * (number % 4)) << number // 4


@pytest.mark.parametrize("index", range(1, 15))
@pytest.mark.parametrize(
    ("second", "rate", "kbits"),
    [
        (0xFF, 44_100, lambda i: 32 * i),  # MPEG-1, layer I
        (0xFD, 44_100, lambda i: octaves(i) if i > 1 else 32),  # layer II
        (0xFB, 44_100, lambda i: octaves(i - 1)),  # layer III
        (0xF3, 22_050, lambda i: 8 * i if i <= 8 else 16 * i - 64),  # MPEG-2, layer III
        (0xF5, 22_050, lambda i: 8 * i if i <= 8 else 16 * i - 64),  # layer II
    ],
    ids=["1 I", "1 II", "1 III", "2 III", "2 II"],
)
def test_the_bitrates_of_mpeg_audio(second: int, rate: int, kbits: Callable[[int], int], index: int) -> None:
    """By their laws; a frame is 384 samples in words of four bytes in layer I, 1152 or 576 in bytes in the others."""
    frame = frame_at(bytes([0xFF, second, index << 4, 0]), 0)
    assert frame is not None
    bits = kbits(index) * 1000
    if second == 0xFF:
        assert (frame.size, frame.num_samples) == (12 * bits // rate * 4, 384)
    else:
        num_samples = 576 if second == 0xF3 else 1152
        assert (frame.size, frame.num_samples) == (num_samples // 8 * bits // rate, num_samples)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
DATA = (tone(1) * 32767).astype("<i2").tobytes()


def test_the_wave_that_a_riff_holds(tmp_path: Path) -> None:
    assert decode(tmp_path, riff(FMT, chunk(b"data", DATA), chunk(b"LIST", b"INFO"))) == (RATE, RATE, [])


@pytest.mark.parametrize("tag", [b"TAG".ljust(128, b"\0"), b"ID3\x04" + bytes(20), b"APETAGEX" + bytes(24), b"\1"])
def test_a_tag_behind_a_riff_is_passed_and_other_bytes_are_told(tmp_path: Path, tag: bytes) -> None:
    data = riff(FMT, chunk(b"data", DATA))
    assert decode(tmp_path, data + tag) == (RATE, RATE, [])
    with pytest.raises(RecordingError, match="23 follow it"):
        decode(tmp_path, data + b"\1APETAG of no tag ends.")


def test_a_riff_without_a_fmt_chunk_says_so(tmp_path: Path) -> None:
    assert quarantined(ingested(tmp_path, riff(chunk(b"data", DATA)), "a.wav")) == "not readable audio (no fmt chunk)"
    with pytest.raises(RecordingError, match="no data chunk"):
        decode(tmp_path, riff(FMT))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_data_chunk_of_unknown_size_goes_to_the_end(tmp_path: Path, size: int) -> None:
    data = riff(FMT, b"data" + struct.pack("<I", size) + DATA)
    assert decode(tmp_path, data)[1] == RATE
    with Decoder(tmp_path / "x.bin") as decoder:
        assert np.array_equal(decoder.read(RATE)[:, 0], np.frombuffer(DATA, "<i2") / np.float32(32768))


def test_sound_behind_a_data_chunk_that_counts_too_little_is_told(tmp_path: Path) -> None:
    data = riff(FMT, b"data" + struct.pack("<I", len(DATA) // 2) + DATA)
    detail = quarantined(ingested(tmp_path, data, "a.wav"))
    assert detail == ("bytes behind the end of the audio (its header counts 16,000 bytes of sound, 16,000 follow it)")


def test_uncounted_sound_that_spells_a_name_is_no_chunk(tmp_path: Path) -> None:
    """Loud samples are printable bytes once in fifty times; a list of tags that was cut off is no sound."""
    data = riff(FMT, b"data" + struct.pack("<I", len(DATA)) + DATA)
    assert "bytes behind the end" in quarantined(ingested(tmp_path, data + b"sounds like it" * 99, "a.wav"))
    assert decode(tmp_path, data + b"LIST" + struct.pack("<I", 4000) + b"INFOISFT")[1] == RATE


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 7])
def test_the_size_of_the_whole_riff_is_not_believed(tmp_path: Path, size: int) -> None:
    data = riff(FMT, chunk(b"data", DATA))
    assert decode(tmp_path, data[:4] + struct.pack("<I", size) + data[8:]) == (RATE, RATE, [])


@pytest.mark.parametrize(
    ("subtype", "padded"), [("IMA_ADPCM", 32_544), ("MS_ADPCM", 32_384), ("GSM610", 32_000), ("G721_32", 32_040)]
)
def test_what_is_coded_in_blocks_is_as_long_as_its_fact_chunk_says(tmp_path: Path, subtype: str, padded: int) -> None:
    data = bytearray(encoded("WAV", subtype))
    at = data.find(b"fact") + 8
    data[at : at + 4] = bytes(4)
    assert decode(tmp_path, bytes(data))[1] == padded, "the last block is padded"
    data[at : at + 4] = struct.pack("<I", LENGTH - 9)
    assert stored(ingested(tmp_path, bytes(data), "a.wav")) == LENGTH - 9


def test_a_huge_promise_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.flac"
    path.write_bytes(with_md5(with_total(encoded("FLAC"), (1 << 36) - 1), bytes(16)))
    tracemalloc.start()
    with pytest.raises(RecordingError, match="68,719,476,735 samples, 32,000 are there"), Decoder(path) as decoder:
        assert decoder.num_frames is None
        while len(decoder.read(RATE)):
            pass
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.ogg", "a.sph", "a.FLAC"])
@pytest.mark.parametrize("fmt", ["FLAC", "WAV", "MP3", "OGG"])
def test_a_format_is_told_by_content(tmp_path: Path, fmt: str, name: str) -> None:
    (tmp_path / name).write_bytes(encoded(fmt))
    assert len(parts_of(tmp_path / name)) == 1
    assert stored(ingested(tmp_path, encoded(fmt), name)) == LENGTH


@pytest.mark.parametrize("data", [b"<html><body>404</body></html>" * 40, bytes(65_536), b"\xff" * 5000, b"OggS" * 20])
def test_what_is_no_audio_is_quarantined(tmp_path: Path, data: bytes) -> None:
    detail = quarantined(ingested(tmp_path, data, "a.wav"))
    assert any(word in detail for word in ("not readable", "damaged", "early"))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_file_read_by_single_frames_is_the_file(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(encoded("FLAC", subtype, seconds=0.01))
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    with Decoder(path) as decoder:
        found = [decoder.read(1) for _ in range(len(expected))]
        assert np.array_equal(np.concatenate(found), expected) and not len(decoder.read(1))
