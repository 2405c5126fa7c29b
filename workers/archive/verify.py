"""``verify``: the scrub of an archive (shards/archive/audit.py), with every damage on a line of its own."""

from __future__ import annotations

import re
from typing import Any

from syllabary.shards.about.events import FIXITY_CHECK, record_event
from syllabary.shards.archive.audit import Audit, audit_archive
from syllabary.shards.archive.verified import read_verified, record_verified
from syllabary.shards.errors import DamageError, FormatError, InputError, StorageError
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import VerifyJob
from syllabary.workers.control.log import Progress, say


def verify(job: VerifyJob) -> dict[str, Any]:
    """Check every byte and row of the archive, and its coverage when the job names shards.

    With ``only_new``, parts that an earlier such run recorded as intact are not read again. The record is made by such
    a run; where there is one, a whole run puts it right.

    Raises:
        DamageError: something is damaged, missing or foreign, each finding was printed; or the archive is not the one
            of the digest that the job expects.
        InputError: that is no digest, or not all parts would be read.
    """
    _require_digest(job)
    progress: Progress | None = None

    def on_part(shard: str, number: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress("verify", total, "parts")
        progress.add(1, shard)

    record = _record(job)
    audit = audit_archive(job.archive, job.shards, on_part, known=record if record and job.only_new else {})
    for line in (*audit.notes, *map(str, audit.findings)):
        say("verify", line)
    other = _other_than_expected(job, audit)
    if job.log_event:
        _log_event(job, audit, other)
    if audit.intact != record and (job.only_new or record is not None):
        record_verified(job.archive, audit.intact)
    if audit.findings:
        raise DamageError(
            f"{len(audit.findings)} damages in {job.archive}, first: {audit.findings[0]}; "
            "run `syllabary tokenize` again to make damaged and missing parts anew"
        )
    if other:
        fix = (
            "where it was tokenized further since, keep its new digest; else ask for the archive that the digest is of"
        )
        raise DamageError(f"{job.archive} is another archive than expected: {other}", fix=fix)
    return _summary(job, audit)


def _require_digest(job: VerifyJob) -> None:
    if job.expect is None:
        return
    if not re.fullmatch(r"[0-9a-f]{64}", job.expect):
        expected = "the 64 hexadecimal digits that `syllabary verify` prints"
        raise InputError("no archive digest", value=job.expect, expected=expected)
    if job.only_new:
        raise InputError("a digest is of all parts, and --new reads some", fix="leave out --new, or --expect")


def _other_than_expected(job: VerifyJob, audit: Audit) -> str:
    """How the digest differs from the expected one; empty where it does not, or damage says more than it."""
    own = audit.archive_digest
    if job.expect is None or own is None or own == job.expect:
        return ""
    return f"its digest is {own[:16]}..., not {job.expect[:16]}..."


def _log_event(job: VerifyJob, audit: Audit, other: str) -> None:
    """Note the check in the archive's log; where that cannot be written, the check stands and it is said."""
    scope = "parts not verified before" if job.only_new else "all parts"
    detail = f"sha256, page checksums, crc32c of rows, format, of {scope}: {audit.num_parts} read"
    if audit.archive_digest is not None:
        detail += f"; archive digest {audit.archive_digest}"
    outcome = "fail" if audit.findings or other else "pass"
    notes = (*audit.notes, *([f"another archive than expected: {other}"] if other else []))
    try:
        record_event(job.archive, FIXITY_CHECK, outcome, detail, (*map(str, audit.findings), *notes))
    except StorageError as error:
        say("verify", f"the check is not in the archive's log: {error}")


def _record(job: VerifyJob) -> dict[str, int] | None:
    """What was verified before, None where that is not recorded. Raises FormatError: a damaged record is needed."""
    try:
        return read_verified(job.archive)
    except FormatError as error:
        if job.only_new:
            raise
        say("verify", f"{error.args[0].partition(';')[0]}: written anew")
        return {}


def _summary(job: VerifyJob, audit: Audit) -> dict[str, Any]:
    """Say and return what was found intact."""
    num_known = len(audit.intact) - audit.num_parts
    known = f"; {counted(num_known, 'part')} verified before" if num_known else ""
    figures = f"{counted(audit.num_rows, 'utterance')}, {audit.duration_s:,.1f} s in {counted(audit.num_parts, 'part')}"
    say("verify", f"{figures}: all intact{known}")
    if audit.archive_digest is not None:
        say("verify", f"archive digest {audit.archive_digest}{', as expected' if job.expect else ''}")
    for machine, num_parts in sorted(audit.encoded_on.items()):
        # as Python writes it: the text is the archive's, and a control character in it would reach the terminal
        say("verify", f"{counted(num_parts, 'part')} encoded on {repr(machine) if machine else 'what is not recorded'}")
    return {
        "num_parts": audit.num_parts,
        "num_known_parts": num_known,
        "num_utterances": audit.num_rows,
        "duration_s": round(audit.duration_s, 3),
        "size_bytes": audit.size_bytes,
        "num_findings": 0,
        "archive_digest": audit.archive_digest,
        "encoded_on": dict(sorted(audit.encoded_on.items())),
    }
