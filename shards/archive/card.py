"""What an archive says of itself: dataset card, Croissant, the format's text, a reader without dependencies of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import pyarrow as pa

from syllabary.shards.about import croissant, origin
from syllabary.shards.about.card import card, split_files, table
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive.ledger import LEDGER_SCHEMA
from syllabary.shards.archive.parts import LEDGER, PARTS, ArchiveFormat
from syllabary.shards.words import counted

FORMAT_TEXT, READER = "FORMAT.md", "read_tokens.py"
_VERSION = "1.0.0"
_DESCRIPTION = (
    "Speech as discrete tokens: one row per utterance, its tokens frame by frame, and where in which recording it lay. "
    "A tokenizer with the archive's encoder digest turns them back into sound."
)
_READING = """## Reading it

```python
datasets.load_dataset(FOLDER)                   # Hugging Face: the tokens; name="ledger": what became of each utterance
pyarrow.parquet.read_table(FOLDER + "/parts")   # or pandas, Polars, fastparquet, DuckDB, Spark on parts/*.parquet
```

`python read_tokens.py parts/<shard>.parquet UTTERANCE_ID` prints level indices and needs nothing but pyarrow.
`FORMAT.md` is the whole format: columns, metadata, how tokens become level indices, what a reader must refuse.
`tokens` of a row are `num_frames` times {num_groups} ids, frame by frame; `packing` says how they are packed."""
_LAYOUT = """## What is here

| file | what it is |
| --- | --- |
| `parts/<shard>.parquet` | the tokens of a shard |
| `ledger/<shard>.parquet` | what became of every utterance of it: tokenized, or quarantined and why |
| `sums/<shard>.sha256` | their checksums: `sha256sum -c sums/*.sha256` |
| `about.sha256` | checksums of this page and of the files beside it, as they were written |
| `output.json`, `done.json` | what the archive is of, and its totals |
| `croissant.json` | this description for machines (MLCommons Croissant) |
| `origin.json` | origin and licence, for machines |
| `tokenizer/` | the tokenizer's card and configuration{weights} |
| `events/` | the log of fixity checks (PREMIS) |

`syllabary verify --archive FOLDER` checks every byte, row and file. This page may be edited: that is told and kept."""


def archive_files(
    form: ArchiveFormat,
    schema: pa.Schema,
    shards: Sequence[str],
    totals: Mapping[str, Any],
    told: Origin,
    tokenizer: Mapping[str, bytes],
    tokenizer_uri: str,
) -> dict[str, bytes]:
    """Every file by its name in the folder; the same archive gives the same bytes.

    Args:
        form: of the archive.
        schema: columns of a part.
        shards: names of the parts.
        totals: of ``done.json``.
        told: origin and licence.
        tokenizer: files of the tokenizer's directory that go along, by their name in it.
        tokenizer_uri: where all of it lies.
    """
    title = f"{told.title or 'Speech'} as tokens"
    with_weights = any(name.endswith(".safetensors") for name in tokenizer)
    configs = {"tokens": split_files(PARTS, shards), "ledger": split_files(LEDGER, shards)}
    sections = [
        _DESCRIPTION,
        table(_figures(form, totals)),
        _READING.format(num_groups=form.packing.num_groups),
        _tokenizer(form, with_weights, tokenizer_uri),
        _LAYOUT.format(weights=" and weights" if with_weights else ""),
    ]
    sets = {
        "tokens": ([f"{PARTS}/*.parquet"], schema.remove_metadata()),
        "ledger": ([f"{LEDGER}/*.parquet"], LEDGER_SCHEMA),
    }
    return {
        "README.md": card(title, configs, told, sections),
        croissant.NAME: croissant.croissant(title, _DESCRIPTION, told, sets, _VERSION),
        origin.NAME: told.encode(),
        FORMAT_TEXT: format_text(),
        READER: resources.files("syllabary.shards.archive").joinpath(READER).read_bytes(),
        **{f"tokenizer/{name}": data for name, data in tokenizer.items()},
    }


def format_text() -> bytes:
    """The specification as of this version."""
    return resources.files("syllabary.shards").joinpath(FORMAT_TEXT).read_bytes()


def _figures(form: ArchiveFormat, totals: Mapping[str, Any]) -> list[tuple[str, str]]:
    packing, frame_rate = form.packing, form.model_sample_rate / form.hop_length
    hours = float(totals.get("tokenized_s", 0.0)) / 3600
    left_out = totals.get("num_quarantined", 0)
    rows = [
        ("speech", f"{hours:,.2f} h in {counted(totals.get('num_tokenized', 0), 'utterance')}"),
        ("not tokenized", f"{counted(left_out, 'utterance')}, in the ledger with their reasons"),
        ("tokens", f"{frame_rate * packing.num_groups:g} a second, {packing.num_groups} a frame"),
        ("frames", f"{frame_rate:g} a second, {form.hop_length:,} samples at {form.model_sample_rate:,} Hz"),
        (
            "ids",
            f"0 to {packing.vocabulary - 1:,}; of the last place of a frame 0 to {packing.position_sizes[-1] - 1:,}",
        ),
        ("packing", f"`{packing}`"),
        ("encoding of the parts", form.encoding),
        ("format version", str(form.version)),
    ]
    return rows


def _tokenizer(form: ArchiveFormat, with_weights: bool, uri: str) -> str:
    where = "`tokenizer/` beside this page" if with_weights else f"`{uri}`, not in this folder"
    rows = [("encoder digest (fixes the tokens)", f"`{form.encoder_digest}`"), ("weights", where)]
    return (
        "## Tokenizer\n\n"
        + table(rows)
        + "\n\n`tokenizer/README.md` is its card, `tokenizer/config.json` its whole configuration and both "
        "digests. Any decoder of that encoder gives the sound back: `syllabary restore --archive FOLDER --tokenizer "
        + ("FOLDER/tokenizer" if with_weights else "URI")
        + " --out OUT`."
    )
