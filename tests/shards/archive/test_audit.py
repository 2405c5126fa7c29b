"""The scrub finds every changed byte of parts, ledgers and checksums, and names part, rows and time span."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards import dataset, outputs
from syllabary.shards.archive import audit as audit_module
from syllabary.shards.archive.audit import Finding, audit_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.ledger import publish_part, read_archive_digest, read_ledger, sha256
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import PartMetadata, list_values, part_table, row_tokens
from syllabary.shards.errors import NotFoundError
from tests.helpers.archive_corpus import RATE, make_archive


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    make_archive(str(folder), num_utterances=64)
    return folder


@pytest.fixture
def archive(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "archive"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))


def token_page(part: Path, group: int) -> tuple[int, int]:
    metadata = pq.ParquetFile(part).metadata.row_group(group)
    column = next(c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema.startswith("tokens"))
    return column.data_page_offset, column.total_compressed_size


def test_an_intact_archive_has_no_findings_and_is_counted(archive: Path) -> None:
    audit = audit_archive(str(archive))
    assert audit.findings == [] and (audit.num_parts, audit.num_rows) == (3, 192)
    assert audit.size_bytes == sum(p.stat().st_size for p in (archive / "parts").iterdir())


def test_each_part_is_told_with_its_number_when_it_has_been_read(archive: Path) -> None:
    told: list[tuple[str, int, int]] = []
    audit_archive(str(archive), on_part=lambda *part: told.append(part))
    assert told == [("train-000000", 1, 3), ("train-000001", 2, 3), ("valid-000000", 3, 3)]


@pytest.mark.parametrize("folder", ["parts", "ledger", "sums"])
def test_any_flipped_bit_anywhere_is_found_in_its_file(archive: Path, folder: str) -> None:
    rng = np.random.default_rng(7)
    files = sorted((archive / folder).iterdir())
    for _ in range(60):
        path = files[rng.integers(len(files))]
        at, bit = int(rng.integers(path.stat().st_size)), int(rng.integers(8))
        flip(path, at, bit)
        found = [f.file for f in audit_archive(str(archive)).findings]
        assert f"{folder}/{path.name}" in found, f"byte {at}, bit {bit} of {path.name}: {found}"
        flip(path, at, bit)
    assert audit_archive(str(archive)).findings == []


def test_any_flipped_bit_of_a_footer_is_a_finding_and_no_crash(archive: Path) -> None:
    """A footer holds names, types and row counts, whose damage reads as a wrong table, not as a wrong checksum."""
    part = archive / "parts/valid-000000.parquet"
    rng, size = np.random.default_rng(3), part.stat().st_size
    for at in rng.integers(size - 8 - pq.ParquetFile(part).metadata.serialized_size, size, 80):
        flip(part, int(at), int(at) % 8)
        assert "parts/valid-000000.parquet" in [f.file for f in audit_archive(str(archive)).findings], f"byte {at}"
        flip(part, int(at), int(at) % 8)


def test_flipped_bits_in_pages_are_named_by_row_and_time_and_the_other_row_groups_stay_readable(archive: Path) -> None:
    part = archive / "parts/train-000001.parquet"
    rows = pq.read_table(archive / "ledger/train-000001.parquet").to_pylist()
    intact = [pq.ParquetFile(part).read_row_group(group) for group in range(4)]
    metadata, rng = pq.ParquetFile(part).metadata, np.random.default_rng(11)
    for _ in range(40):
        group, column = int(rng.integers(4)), int(rng.integers(metadata.num_columns))
        chunk = metadata.row_group(group).column(column)
        begin = chunk.dictionary_page_offset or chunk.data_page_offset
        at, bit = int(rng.integers(begin, begin + chunk.total_compressed_size)), int(rng.integers(8))
        flip(part, at, bit)
        findings = audit_archive(str(archive)).findings
        told = f"byte {at}, bit {bit}, {chunk.path_in_schema}: {list(map(str, findings))}"
        assert findings and all(f.file == "parts/train-000001.parquet" for f in findings), told
        for finding in (f for f in findings if f.rows):
            first, last = finding.rows
            assert group * 16 <= first <= last < group * 16 + 16, told
            audio = {(r["recording_id"], r["start_sample"] / RATE) for r in rows[first : last + 1]}
            assert {(name, start) for name, start, _ in finding.spans} <= audio and finding.spans, told
        assert any(f.rows for f in findings) or "outside the rows" in findings[0].what, told
        for other in {0, 1, 2, 3} - {group}:
            assert pq.ParquetFile(part, page_checksum_verification=True).read_row_group(other).equals(intact[other])
        flip(part, at, bit)


@pytest.mark.parametrize(
    ("byte", "bit", "what"),
    [
        (b"start_sample", 0, "column start_sample"),  # becomes another name
        (b"start_sample", 7, "footer does not parse"),  # is no UTF-8 any more
    ],
)
def test_a_damaged_name_in_a_footer_is_told_with_the_rows_behind_it(
    archive: Path, byte: bytes, bit: int, what: str
) -> None:
    part = archive / "parts/train-000000.parquet"
    data = part.read_bytes()
    flip(part, data.index(byte, len(data) - pq.ParquetFile(part).metadata.serialized_size), bit)
    finding = next(f for f in audit_archive(str(archive)).findings if f.rows)
    assert finding.rows == (0, 63) and what in finding.what and finding.spans


def test_damaged_tokens_are_named_by_row_and_time_and_the_rest_stays_readable(archive: Path) -> None:
    part = archive / "parts/train-000001.parquet"
    offset, size = token_page(part, 2)
    flip(part, offset + size // 2)
    findings = audit_archive(str(archive)).findings
    ledger = pq.read_table(archive / "ledger/train-000001.parquet").to_pylist()
    assert findings and all(f.file == "parts/train-000001.parquet" for f in findings)
    named = [row for f in findings for row in range(f.rows[0], f.rows[1] + 1)]
    assert named and set(named) <= set(range(32, 48))
    recording, start, end = findings[0].spans[0]
    first = ledger[findings[0].rows[0]]
    assert recording == first["recording_id"] and start == first["start_sample"] / first["sample_rate"] < end
    assert f"{recording} {start:.3f}..{end:.3f} s" in str(findings[0])
    others = pq.ParquetFile(part, page_checksum_verification=True)
    assert [others.read_row_group(g).num_rows for g in (0, 1, 3)] == [16, 16, 16]


def test_a_wrong_row_with_right_page_checksums_is_found_exactly(archive: Path) -> None:
    from syllabary.shards.archive.encoding import encode_part

    part = archive / "parts/train-000000.parquet"
    file = pq.ParquetFile(part)
    table = file.read().replace_schema_metadata({b"syllabary": file.metadata.metadata[b"syllabary"]})
    tokens = table["tokens"].to_pylist()
    tokens[20][18] = 16  # the last position of a frame has 16 ids
    changed = table.set_column(
        table.schema.get_field_index("tokens"),
        table.schema.field("tokens"),
        pa.array(tokens, table.schema.field("tokens").type),
    )
    part.write_bytes(encode_part(changed, row_group_size=16))
    findings = audit_archive(str(archive)).findings
    assert [f.rows for f in findings] == [(20, 20)] and "checks" in findings[0].what


def test_a_token_out_of_range_is_found_even_with_a_right_checksum(archive: Path) -> None:
    from syllabary.shards.archive.audit import wrong_rows
    from syllabary.shards.archive.parts import read_format, row_crc32cs

    table = pq.read_table(archive / "parts/train-000000.parquet")
    tokens = table["tokens"].to_pylist()
    tokens[5][18] = 16
    changed = table.set_column(
        table.schema.get_field_index("tokens"),
        table.schema.field("tokens"),
        pa.array(tokens, table.schema.field("tokens").type),
    )
    position = changed.schema.get_field_index("crc32c")
    changed = changed.set_column(position, table.schema.field("crc32c"), [row_crc32cs(changed)])
    assert np.flatnonzero(wrong_rows(changed, read_format(str(archive)))).tolist() == [5]


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    """The table with another column and the row checksums of what it then holds."""
    from syllabary.shards.archive.parts import row_crc32cs

    changed = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [values])
    crc = changed.schema.get_field_index("crc32c")
    return changed.set_column(crc, table.schema.field("crc32c"), [row_crc32cs(changed)])


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: [*s, 0], lambda s: []])
def test_a_salience_of_another_length_is_found_even_with_a_right_checksum(archive: Path, change: Callable) -> None:
    from syllabary.shards.archive.audit import wrong_rows
    from syllabary.shards.archive.parts import read_format

    table = pq.read_table(archive / "parts/train-000000.parquet")
    salience = table["salience"].to_pylist()
    salience[5] = change(salience[5])
    changed = with_column(table, "salience", pa.array(salience, table.schema.field("salience").type))
    assert np.flatnonzero(wrong_rows(changed, read_format(str(archive)))).tolist() == [5]


def test_a_row_of_another_utterance_than_the_ledgers_is_found_though_all_checksums_are_right(archive: Path) -> None:
    """Two rows change places; part, rows and sums are sealed anew, and only the ledger remembers the order."""
    from dataclasses import replace

    from syllabary.shards.archive.encoding import encode_part
    from syllabary.shards.archive.ledger import read_ledger, sha256, sums_text

    part = archive / "parts/train-000000.parquet"
    file = pq.ParquetFile(part)
    table = file.read().replace_schema_metadata({b"syllabary": file.metadata.metadata[b"syllabary"]})
    order = [*range(20), 21, 20, *range(22, 64)]
    part.write_bytes(encode_part(table.take(order), row_group_size=16))
    own = sha256(part.read_bytes())
    encoded = replace(
        read_ledger(str(archive), "train-000000"), part_sha256=own, part_size_bytes=part.stat().st_size
    ).encode()
    (archive / "ledger/train-000000.parquet").write_bytes(encoded)
    (archive / "sums/train-000000.sha256").write_bytes(sums_text("train-000000", own, sha256(encoded)))
    assert [f.rows for f in audit_archive(str(archive)).findings] == [(20, 21)]


def test_a_ledger_of_other_utterances_than_the_shards_is_found(tmp_path: Path) -> None:
    """The shard's digest is right and its rows are not: they are compared one by one with the index."""
    from dataclasses import replace

    from syllabary.shards.archive.ledger import intact_ledger, publish_part
    from tests.helpers.archive_corpus import FORMAT, make_part, make_shards

    shards = make_shards(str(tmp_path / "shards"), ("train-000000",), num_utterances=6)
    archive, name = tmp_path / "archive", "train-000000"
    FORMAT.claim(str(archive))
    make_part(str(archive), dataset.read_index_part(shards, name), FORMAT, name, 0, 16)
    assert audit_archive(str(archive), shards).findings == []
    ledger = intact_ledger(str(archive), name, FORMAT)
    swapped = replace(ledger, rows=ledger.rows.take([1, 0, 2, 3, 4, 5]))
    publish_part(str(archive), (archive / f"parts/{name}.parquet").read_bytes(), swapped)
    found = [str(f) for f in audit_archive(str(archive), shards).findings]
    assert f"ledger/{name}.parquet: does not account for the utterances of the shard" in found


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("parts", "the part is missing, its ledger or checksums are there"),
        ("ledger", "the ledger is missing"),
        ("sums", "the checksums are missing"),
    ],
)
def test_a_missing_file_is_found(archive: Path, folder: str, what: str) -> None:
    next(iter(sorted((archive / folder).iterdir()))).unlink()
    assert [f.what for f in audit_archive(str(archive)).findings] == [what]


def test_a_truncated_and_a_foreign_part_are_found(archive: Path, tmp_path: Path) -> None:
    part = archive / "parts/train-000000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    make_archive(str(tmp_path / "other"), num_utterances=64, packing=Packing(128, 4, 5))
    shutil.copy(tmp_path / "other/parts/train-000001.parquet", archive / "parts/train-000001.parquet")
    findings = {f.file: f for f in audit_archive(str(archive)).findings}
    assert "unreadable" in findings["parts/train-000000.parquet"].what
    assert findings["parts/train-000000.parquet"].rows == (0, 63)
    assert "metadata is not this archive's" in str(findings["parts/train-000001.parquet"])


def test_a_shard_that_is_gone_with_all_its_files_is_missed_once_the_archive_was_complete(archive: Path) -> None:
    outputs.mark_done(str(archive), {"num_parts": 3})
    (archive / "parts/train-000001.parquet").unlink()
    assert [f.file for f in audit_archive(str(archive)).findings] == ["parts/train-000001.parquet"]
    (archive / "ledger/train-000001.parquet").unlink()
    (archive / "sums/train-000001.sha256").unlink()
    assert [str(f) for f in audit_archive(str(archive)).findings] == [
        "done.json: counts 3 parts, but there are traces of 2"
    ]
    for text in ("{", "{}", '{"num_parts": "3"}'):
        (archive / "done.json").write_text(text)
        assert [str(f) for f in audit_archive(str(archive)).findings] == ["done.json: does not parse"]


def test_a_shard_exchanged_for_another_archives_with_ledger_and_checksums_is_found(
    archive: Path, tmp_path: Path
) -> None:
    size_bytes = sum(part.stat().st_size for part in (archive / "parts").iterdir())
    outputs.mark_done(str(archive), {"num_parts": 3, "size_bytes": size_bytes})
    assert not audit_archive(str(archive)).findings
    make_archive(str(tmp_path / "other"), num_utterances=62)
    for name in ("parts/train-000001.parquet", "ledger/train-000001.parquet", "sums/train-000001.sha256"):
        shutil.copy(tmp_path / "other" / name, archive / name)
    (finding,) = audit_archive(str(archive)).findings
    assert finding.file == "done.json" and f"counts {size_bytes:,} bytes in 3 parts" in finding.what
    assert "not of this archive" in finding.what


def resealed(part: Path) -> bytes:
    """The part with one other token, of the same size, its checksums right: as whoever has the code may write it."""
    file = pq.ParquetFile(part)
    metadata, table = PartMetadata.of_file(file, "train-000001"), file.read()
    index = table.drop_columns(["tokens", "salience", "crc32c", "num_frames", "packing"])
    for row in range(len(table)):
        tokens = row_tokens(table, metadata.format.packing.num_groups)
        tokens[row] = tokens[row] ^ np.uint16(1)
        made = encode_part(part_table(index, tokens, list_values(table["salience"]), metadata), row_group_size=16)
        if len(made) == part.stat().st_size:
            return made
    raise AssertionError("no token can be exchanged without a change of size")


def test_the_archive_digest_is_of_all_checksums_as_a_shell_has_it(archive: Path) -> None:
    command = "cat sums/*.sha256 | sha256sum"
    told = subprocess.run(command, shell=True, cwd=archive, capture_output=True, text=True, check=True).stdout
    assert audit_archive(str(archive)).archive_digest == told.split()[0] == read_archive_digest(str(archive))
    known = {"train-000001": (archive / "parts/train-000001.parquet").stat().st_size}
    assert audit_archive(str(archive), known=known).archive_digest is None, "not every part was read"
    flip(archive / "ledger/train-000000.parquet", -20)
    assert audit_archive(str(archive)).archive_digest is None


def test_a_part_exchanged_for_one_of_its_size_with_ledger_and_checksums_is_found(archive: Path, tmp_path: Path) -> None:
    sizes = {"num_parts": 3, "size_bytes": sum(part.stat().st_size for part in (archive / "parts").iterdir())}
    outputs.mark_done(str(archive), sizes | {"archive_digest": read_archive_digest(str(archive))})
    assert not audit_archive(str(archive)).findings
    shard, part = "train-000001", archive / "parts/train-000001.parquet"
    other = resealed(part)
    assert len(other) == part.stat().st_size and other != part.read_bytes()
    ledger = read_ledger(str(archive), shard)
    publish_part(str(archive), other, replace(ledger, part_sha256=sha256(other), part_size_bytes=len(other)))
    (finding,) = audit_archive(str(archive)).findings
    assert finding.file == "done.json" and "one of them is not of this archive" in finding.what
    outputs.mark_done(str(archive), sizes | {"archive_digest": read_archive_digest(str(archive))})
    assert not audit_archive(str(archive)).findings, "who writes all records anew is found by a digest kept elsewhere"


def test_a_ledger_of_fewer_rows_than_the_part_is_told_without_blaming_the_rows(archive: Path) -> None:
    from dataclasses import replace

    from syllabary.shards.archive.ledger import read_ledger

    ledger = read_ledger(str(archive), "train-000000")
    (archive / "ledger/train-000000.parquet").write_bytes(replace(ledger, rows=ledger.rows.slice(0, 5)).encode())
    audit = audit_archive(str(archive))
    assert audit.num_rows == 192, "every row was read and counted"
    assert [f.file for f in audit.findings] == ["parts/train-000000.parquet", "sums/train-000000.sha256"]
    assert "has 64 rows; its ledger has 5 tokenized utterances" in audit.findings[0].what


def test_a_foreign_file_with_checksums_of_its_own_is_named_and_the_scrub_goes_on(archive: Path) -> None:
    from syllabary.shards.archive.ledger import sha256

    part, sums = archive / "parts/train-000000.parquet", archive / "sums/train-000000.sha256"
    part.write_bytes(b"no Parquet at all")
    ledger_line = sums.read_text().splitlines()[1]
    sums.write_text(f"{sha256(part.read_bytes())}  parts/train-000000.parquet\n{ledger_line}\n")
    audit = audit_archive(str(archive))
    assert {f.file.rpartition(".")[0].rpartition("/")[2] for f in audit.findings} == {"train-000000"}
    assert "unreadable" in audit.findings[0].what and audit.num_rows == 128


@pytest.mark.parametrize(("rate", "num_samples"), [(0, 100), (1, 1 << 62)])
def test_numbers_without_sense_are_damage_and_no_crash(archive: Path, rate: int, num_samples: int) -> None:
    from syllabary.shards.archive.encoding import encode_part

    for folder, name in (("ledger", "train-000000.parquet"), ("sums", "train-000000.sha256")):
        (archive / folder / name).unlink()
    part = archive / "parts/train-000000.parquet"
    file = pq.ParquetFile(part)
    table = file.read().replace_schema_metadata({b"syllabary": file.metadata.metadata[b"syllabary"]})
    for name, value in (("sample_rate", rate), ("num_samples", num_samples)):
        column = table.schema.get_field_index(name)
        values = [*table[name].to_pylist()[:20], value, *table[name].to_pylist()[21:]]
        table = table.set_column(column, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    part.write_bytes(encode_part(table, row_group_size=16))
    found = [f for f in audit_archive(str(archive)).findings if f.rows]
    assert [f.rows for f in found] == [(16, 31)] and found[0].file == "parts/train-000000.parquet"


def test_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        audit_archive(str(tmp_path))


def test_of_row_groups_that_do_not_add_up_every_row_is_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer that counts one row more than its groups: 64 utterances of the first part, to the end of the last."""
    opened = audit_module.open_part

    def miscounted(source: object, name: str) -> object:
        file = opened(source, name)
        groups = file.metadata
        counts = SimpleNamespace(num_rows=groups.num_rows + 1, num_row_groups=groups.num_row_groups,
                                 row_group=groups.row_group, metadata=groups.metadata)  # fmt: skip
        return SimpleNamespace(metadata=counts, schema_arrow=file.schema_arrow) if "train-000000" in name else file

    monkeypatch.setattr(audit_module, "open_part", miscounted)
    (finding,) = audit_archive(str(archive)).findings
    assert (finding.file, finding.what, finding.rows) == (
        "parts/train-000000.parquet", "its row groups do not add up", (0, 63)
    )  # fmt: skip


@pytest.mark.parametrize(("num_spans", "tail"), [(0, ""), (1, ""), (3, ""), (4, "; and 1 more"), (9, "; and 6 more")])
def test_a_finding_shows_three_spans_and_counts_the_others(num_spans: int, tail: str) -> None:
    spans = tuple((f"r{number}", float(number), number + 0.5) for number in range(num_spans))
    shown = "; ".join(f"r{number} {number}.000..{number}.500 s" for number in range(min(3, num_spans)))
    expected = "parts/a, rows 2..5: wrong" + (f" ({shown}{tail})" if num_spans else "")
    assert str(Finding("parts/a", "wrong", (2, 5), spans)) == expected
