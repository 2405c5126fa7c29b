"""What blocks say of themselves: dataset card, Croissant, the format's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syllabary.shards import store
from syllabary.shards.about import croissant, origin
from syllabary.shards.about.card import card, table
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive.card import FORMAT_TEXT, format_text
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.blocks.blocks import SOURCES, blocks_schema
from syllabary.shards.blocks.vocabulary import LmVocabulary

_VERSION = "1.0.0"
_DESCRIPTION = "Speech tokens, packed for the training of language models; what each id means stands in blocks.json."
_HOW = {
    "parquet": """`datasets.load_dataset(FOLDER)` gives the blocks, every column of one length, so that any collator
stacks them: `input_ids`, `labels` (what follows, written out: transformers takes `labels=labels,
shift_labels=labels`), `position_ids`, `place` (of the label in its frame), `document_ids`. `name="sources"` says which
seconds of which recording each block has.""",
    "megatron": """`<split>.bin` and `<split>.idx` are Megatron-LM's indexed dataset, one sequence a document, its end
of document behind it. `megatron_flags` of `blocks.json` are what the command line needs for that id to be known.""",
    "datatrove": """`<split>/*.ds` are datatrove's tokenized files (nanotron), documents with the separator behind each,
and their `.index` and `.metadata`.""",
    "webdataset": """`<split>/*.tar` are WebDataset: one sample per block, one array per column (`input_ids.npy`
and so on), and `json` with the seconds of the recordings it has.""",
    "lhotse": """`<split>` is Lhotse Shar: `CutSet.from_shar(in_dir=...)` gives a cut an utterance, and
`cut.load_tokens()` its tokens [num_frames, num_groups].""",
}


def blocks_files(
    form: ArchiveFormat,
    metadata: Mapping[str, Any],
    summary: Mapping[str, Mapping[str, int]],
    told: Origin,
    output_format: str,
    tokenizer: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Every file by its name in the folder; the same blocks give the same bytes.

    Args:
        form: of the archives.
        metadata: of ``blocks.json``.
        summary: of each split.
        told: origin and licence.
        output_format: what the blocks are written as.
        tokenizer: files of the tokenizer's directory that go along, by their name in it.
    """
    title = f"{told.title or 'Speech'} as blocks of tokens"
    splits = [split for split, own in summary.items() if own["num_documents"]]
    is_parquet = output_format == "parquet"
    configs = {
        "blocks": {split: f"{split}/part-*.parquet" for split in splits},
        "sources": {split: f"sources/{split}/part-*.parquet" for split in splits},
    }
    sections = [
        _DESCRIPTION,
        table(_figures(metadata, summary)),
        "## Reading it\n\n" + _HOW[output_format],
        _tokens(form),
    ]
    files = {
        "README.md": card(title, configs if is_parquet else {}, told, sections),
        origin.NAME: told.encode(),
        FORMAT_TEXT: format_text(),
        "blocks.json": store.pretty_json(dict(metadata)),
        **{f"tokenizer/{name}": data for name, data in tokenizer.items()},
    }
    if is_parquet:
        schema = blocks_schema(LmVocabulary(form.packing, metadata["id_offset"]), metadata["block_size"], b"")
        own, beside = (list(configs[name].values()) for name in ("blocks", "sources"))
        sets = {"blocks": (own, schema.remove_metadata()), "sources": (beside, SOURCES)}
        files[croissant.NAME] = croissant.croissant(title, _DESCRIPTION, told, sets, _VERSION)
    return files


def _figures(metadata: Mapping[str, Any], summary: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    names = (
        "block_size",
        "layout",
        "ends",
        "document",
        "interleave",
        "id_offset",
        "vocabulary_size",
        "end_of_document",
    )
    own = [(name.replace("_", " "), f"{metadata[name]}") for name in names]
    return own + [
        (
            split,
            ", ".join(f"{value:,} {name.removeprefix('num_').replace('_', ' ')}" for name, value in figures.items()),
        )
        for split, figures in summary.items()
    ]


def _tokens(form: ArchiveFormat) -> str:
    return f"""## Tokens

Made by the encoder `{form.encoder_digest}`, packed as {form.packing}. A tokenizer with that encoder digest makes them
sound again; its card and configuration are in `tokenizer/` where the archive has them. `FORMAT.md`, section Blocks, is
the specification."""
