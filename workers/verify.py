"""``verify``: the scrub of an archive (shards/audit.py), with every damage on a line of its own."""

from __future__ import annotations

from typing import Any

from shards.audit import audit_archive
from shards.errors import DamageError
from workers.job_main import Progress, run_job, say
from workers.jobs import VerifyJob


def verify(job: VerifyJob) -> dict[str, Any]:
    """Check every byte and row of the archive, and its coverage when the job names shards.

    Raises:
        DamageError: something is damaged, missing or foreign; each finding was printed.
    """
    progress: Progress | None = None

    def on_part(shard: str, number: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress("verify", total, "parts")
        progress.add(1, shard)

    audit = audit_archive(job.archive, job.shards, on_part)
    for finding in audit.findings:
        say("verify", str(finding))
    if audit.findings:
        raise DamageError(
            f"{len(audit.findings)} damages in {job.archive}, first: {audit.findings[0]}; "
            "run `syllabary tokenize` again to make damaged and missing parts anew"
        )
    say("verify", f"{audit.num_rows:,} utterances, {audit.duration_s:,.1f} s in {audit.num_parts:,} parts: all intact")
    return {
        "num_parts": audit.num_parts,
        "num_utterances": audit.num_rows,
        "duration_s": round(audit.duration_s, 3),
        "size_bytes": audit.size_bytes,
        "num_findings": 0,
    }


if __name__ == "__main__":
    run_job(VerifyJob, verify)
