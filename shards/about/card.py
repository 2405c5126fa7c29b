"""A dataset card: Markdown below a YAML head, which Hugging Face reads ``configs`` and the licence from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from syllabary.shards.about.origin import Origin

Configs = Mapping[str, Mapping[str, str]]
"""Pattern of the files of every split, by name of the configuration; the first is the default."""


def card(title: str, configs: Configs, origin: Origin, sections: Sequence[str]) -> bytes:
    """The card as UTF-8.

    Args:
        title: of the page.
        configs: what `load_dataset(folder, name)` gives.
        origin: its licence and source, in the head and in a section.
        sections: Markdown, each with its own heading, in order.
    """
    head = {
        "pretty_name": title,
        "license": origin.licence.lower() or "unknown",
        "tags": ["speech", "audio-tokens", "syllabary"],
        "configs": [_config(name, files, number == 0) for number, (name, files) in enumerate(configs.items()) if files],
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    body = "\n\n".join(section.strip() for section in (f"# {title}", *sections, _origin(origin)))
    return f"---\n{text}---\n\n{body}\n".encode()


def split_files(folder: str, shards: Sequence[str]) -> dict[str, str]:
    """Pattern of the files of every split in ``folder``, of shards named ``<split>-<number>``."""
    splits = dict.fromkeys(shard.rpartition("-")[0] for shard in shards)
    return {split: f"{folder}/{split}-*.parquet" for split in sorted(splits, key=_place)}


def table(rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns without headings."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _place(split: str) -> tuple[int, str]:
    known = ("train", "valid", "test")
    return (known.index(split) if split in known else len(known), split)


def _config(name: str, files: Mapping[str, str], is_default: bool) -> dict[str, object]:
    own: dict[str, object] = {"config_name": name}
    if is_default:
        own["default"] = True
    return own | {"data_files": [{"split": split, "path": path} for split, path in files.items()]}


def _origin(origin: Origin) -> str:
    rows = [
        ("comes from", origin.origin or "not told to the ingest (`syllabary shard --origin`)"),
        ("licence of the speech", origin.licence or "not told to the ingest (`syllabary shard --licence`)"),
    ]
    return "## Origin and licence\n\n" + table(rows)
