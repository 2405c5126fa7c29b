"""Which split a row goes to: the archive's own, or a new one by speaker; a speaker in two is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from syllabary.shards.blocks.dealing import BUCKET, Dealer
from syllabary.shards.blocks.splits import KEY_RANGE, shuffle_key, speaker_split
from syllabary.shards.errors import InputError
from syllabary.workers.control.jobs import PackJob

_PAIR = ["speaker", "split"]


class SplitChooser:
    """Chooses the split of every row, and remembers on disk, below ``folder``, which speakers it saw in which.

    Args:
        num_buckets: the speakers are looked through in so many heaps.
        held_bytes: of speakers in memory.
    """

    def __init__(self, job: PackJob, folder: Path, num_buckets: int, held_bytes: float) -> None:
        self._job, self._num_buckets = job, num_buckets
        self._seen = Dealer(folder, num_buckets, held_bytes)

    def splits(self, table: pa.Table) -> list[str]:
        """The split of each row of a table with ``speaker``, ``recording_id`` and ``split``."""
        columns = (table[name].to_pylist() for name in ("speaker", "recording_id", "split"))
        pairs = [
            (recording if speaker is None else speaker, own) for speaker, recording, own in zip(*columns, strict=True)
        ]
        chosen = {pair: self._split(*pair) for pair in set(pairs)}
        if self._job.splits == "archive":
            self._remember(sorted({(speaker, split) for (speaker, _), split in chosen.items()}))
        return [chosen[pair] for pair in pairs]

    def require_disjoint(self) -> None:
        """Refuse an archive with a speaker in two splits. Raises InputError."""
        for _, seen in self._seen.buckets():
            pairs = seen.group_by(_PAIR).aggregate([]).group_by("speaker").aggregate([("split", "list")])
            for name, splits in sorted(zip(pairs["speaker"].to_pylist(), pairs["split_list"].to_pylist(), strict=True)):
                if len(splits) > 1:
                    what = f"a speaker in two splits of the archive, {' and '.join(sorted(splits)[:2])}"
                    fix = "pack with --splits speaker, which splits anew by speaker"
                    raise InputError(what, value=name, fix=fix)

    def _split(self, speaker: str, split: str | None) -> str:
        own = split if self._job.splits == "archive" else None
        return own or speaker_split(self._job.seed, speaker, self._job.valid_percent, self._job.test_percent)

    def _remember(self, pairs: list[tuple[str, str]]) -> None:
        speakers, splits = zip(*pairs, strict=True)
        numbers = [shuffle_key(0, speaker) * self._num_buckets // KEY_RANGE for speaker in speakers]
        self._seen.add(pa.table({BUCKET: pa.array(numbers, pa.int32()), "speaker": speakers, "split": splits}))
