"""The exception tree.

::

    SyllabaryError            a failure a user can act on: one line, exit code 2
    ├── InputError            a value, file or folder given by the user does not do
    │   ├── ConfigError       a recipe, override or configuration file does not resolve
    │   └── ExtraError        an extra of the package is not installed
    ├── SecretError           a key stands where it would be stored and logged
    ├── StorageError          storage refuses, fails or is full
    │   ├── NotFoundError     nothing at that URI
    │   └── UnavailableError  the store does not answer, or answers that it is overloaded: later it may (exit code 75)
    ├── ConflictError         the output already belongs to another input or recipe
    ├── FormatError           bytes are not what their format says
    │   ├── VersionError      a format version this code does not know
    │   └── DamageError       bytes changed since they were written
    └── JobError              a submitted job failed; carries its last lines

Every message says what, the value, what was expected and how to mend it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

_QUERY = re.compile(r"\?[^/]*=")  # a name may have a question mark, but what follows it is no query then


def _line(what: str, value: object, expected: str, fix: str) -> str:
    """One line in the house's order: what, value, expected, fix."""
    line = what if value is None else f"{what}: {value!r}"
    if expected:
        line += f"; expected {expected}"
    if fix:
        line += f"; {fix}"
    return line.replace("\n", " ")


class SyllabaryError(Exception):
    """A failure with one clear line for the user and a non-zero exit code.

    Args:
        what: is wrong.
        value: that is wrong, shown as Python writes it; None where there is none to show.
        expected: what would do.
        fix: how to mend it.

    >>> str(InputError("unknown recipe", value="tinny", expected="one of tiny, paper", fix="see `syllabary recipes`"))
    "unknown recipe: 'tinny'; expected one of tiny, paper; see `syllabary recipes`"
    """

    exit_code = 2

    def __init__(self, what: str, *, value: object = None, expected: str = "", fix: str = "") -> None:
        super().__init__(_line(what, value, expected, fix))


class InputError(SyllabaryError, ValueError):
    """A value, file or folder given by the user does not do."""


class ConfigError(InputError):
    """A recipe, an override or a configuration file does not resolve."""


class ExtraError(InputError):
    """An extra of the package is not installed.

    >>> str(ExtraError("pretrain needs a package that is not installed", "ray", "train"))
    "pretrain needs a package that is not installed: 'ray'; pip install 'syllabary[train]'"
    """

    def __init__(self, what: str, module: str, extra: str) -> None:
        super().__init__(what, value=module, fix=f"pip install 'syllabary[{extra}]'")


class SecretError(SyllabaryError):
    """A key stands where it would be stored and logged; the message does not show it. No ValueError: validation would
    tell it on, with its input."""


class StorageError(SyllabaryError):
    """Storage refuses, fails or is full."""


class NotFoundError(StorageError):
    """Nothing is stored at that URI."""


class UnavailableError(StorageError):
    """The store does not answer, or says that it cannot for now: the same request may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ConflictError(SyllabaryError):
    """The output already belongs to another input or recipe."""


class FormatError(SyllabaryError):
    """Bytes are not what their format says."""


class VersionError(FormatError):
    """A format version that this code does not know."""


class DamageError(FormatError):
    """Bytes have changed since they were written."""


class JobError(SyllabaryError):
    """A submitted job failed.

    Attributes:
        last_lines: the job's own last lines of output, oldest first.
        may_pass: whether the same job may succeed when it is run again: storage was away, or the job was killed or
            lost with its cluster, rather than refused or broken.
    """

    exit_code = 1

    def __init__(self, what: str, last_lines: tuple[str, ...] = (), *, fix: str = "", may_pass: bool = False) -> None:
        super().__init__(what, fix=fix)
        if not fix:
            self.args = (what,)  # a flow's message shows the job's last lines below its own
        self.last_lines = last_lines
        self.may_pass = may_pass


class Fault(NamedTuple):
    """The first thing that a validation found: where (``a.b.c``, empty for the whole), what is wrong, the value."""

    where: str
    message: str
    value: Any


def first_fault(error: ValidationError) -> Fault:
    """The first problem of a failed validation: a user mends one thing at a time."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return Fault(where, first["msg"].removeprefix("Value error, "), first["input"])


def require_version(found: object, known: object, what: str) -> None:
    """Refuse ``what`` when its format version is not the known one.

    Raises:
        VersionError: it names the version found and the one expected.
    """
    if found != known:
        fix = "use the version of syllabary that wrote it"
        raise VersionError(f"unknown {what}", value=found, expected=str(known), fix=fix)


def refuse_keys(text: str) -> None:
    """Refuse a URI that carries keys, and show none of it: URIs stand in logs, claims, parameters and artifacts.

    Raises:
        SecretError: ``scheme://key:secret@...``, or a query, which is how presigned URLs carry theirs.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file" and ("@" in rest.partition("/")[0] or _QUERY.search(rest)):
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; and renew these keys, as they may stand in a log now"
        raise SecretError(f"a {scheme}:// URI with keys in it", expected=f"{scheme}://bucket/prefix", fix=fix)
