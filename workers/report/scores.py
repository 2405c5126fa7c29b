"""``scores.parquet`` of a report, read back: one row per utterance, system and metric."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder
from syllabary.workers.report.card import SCORES, SCORES_COLUMNS


def read_scores(report: str) -> pa.Table:
    """The columns ``SCORES_COLUMNS`` of the report at ``report``.

    Raises:
        NotFoundError: there are none.
        FormatError: damaged ones.
    """
    folder = Folder(report)
    data = folder.read(SCORES)
    try:
        return pq.read_table(pa.BufferReader(data), columns=list(SCORES_COLUMNS)).select(list(SCORES_COLUMNS))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise FormatError("damaged scores", value=folder.join(SCORES), fix="evaluate again") from error
