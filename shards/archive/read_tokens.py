"""Level indices of an utterance, with pyarrow alone: python read_tokens.py parts/train-000000.parquet UTTERANCE_ID."""

import json
import sys

import pyarrow.parquet as pq


def level_indices(part: str, utterance_id: str) -> list[list[int]]:
    """[num_frames][num_dims] of an utterance of a part."""
    file = pq.ParquetFile(part, page_checksum_verification=True)
    meta = json.loads(file.metadata.metadata[b"syllabary"])
    if meta["format_version"] != 1:
        sys.exit(f"format version {meta['format_version']}; this reader knows 1")
    tokens = dict(zip(*file.read(["utterance_id", "tokens"]).to_pydict().values(), strict=True))[utterance_id]
    backwards, frames = meta["digit_order"] == "first_most_significant", []
    for start in range(0, len(tokens), meta["num_groups"]):
        digits: list[int] = []
        for token, radices in zip(tokens[start : start + meta["num_groups"]], meta["radices"], strict=True):
            group = []
            for radix in reversed(radices) if backwards else radices:
                token, digit = divmod(token, radix)
                group.append(digit)
            digits += reversed(group) if backwards else group
        frames.append(digits[: meta["num_dims"]])
    return frames


if __name__ == "__main__":
    print(*level_indices(*sys.argv[1:3]), sep="\n")
