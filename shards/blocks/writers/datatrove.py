"""datatrove's tokenized files, which nanotron trains on: ``<split>/part-NNNNN.ds``, ``.ds.index``, ``.ds.metadata``.

``.ds`` holds the ids of all documents, uint16 or uint32, a separator behind each; ``.ds.index`` where each document
ends, uint64, in ids; ``.ds.metadata`` the tokenizer, the bytes an id and the number of ids.
"""

from __future__ import annotations

import numpy as np

from syllabary.shards import store
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of, with_separators_behind


def write_datatrove(target: Target, tapes: Tapes) -> Totals:
    """Write the files of every tape that has not been written; ``.ds`` comes last and says that they are whole."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0)
    for bucket, tape in tapes:
        totals.update(totals_of(tape))
        name = f"{target.split}/part-{bucket:05}.ds"
        if not store.exists(target.uri(name)):
            _write(target, name, tape)
        del tape  # not beside the next
    return totals


def _write(target: Target, name: str, tape: Tape) -> None:
    ids, lengths = with_separators_behind(tape)
    size = target.vocabulary.dtype.itemsize
    told = f"syllabary-{target.metadata['encoder_digest'][:16]}|{size}\n{len(ids)}\n{len(ids):,} ids\n"
    store.publish_bytes(target.uri(f"{name}.index"), np.cumsum(lengths).astype("<u8").tobytes())
    store.publish_bytes(target.uri(f"{name}.metadata"), told.encode())
    with store.publishing(target.uri(name)) as path:
        ids.astype(f"<u{size}", copy=False).tofile(path)
