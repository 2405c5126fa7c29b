"""No keys in URIs: they come from the environment, and a URI is told to everyone."""

from __future__ import annotations

import re

from syllabary.shards.errors import SecretError

_QUERY = re.compile(r"\?[^/]*=")  # a name may have a question mark, but what follows it is no query then


def refuse_keys(text: str) -> None:
    """Refuse a URI that carries keys: URIs stand in logs, claims, parameters and artifacts. Shows none of it.

    Raises:
        SecretError: ``scheme://key:secret@...``, or a query, which is how presigned URLs carry theirs.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file" and ("@" in rest.partition("/")[0] or _QUERY.search(rest)):
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; and renew these keys, as they may stand in a log now"
        raise SecretError(f"a {scheme}:// URI with keys in it", expected=f"{scheme}://bucket/prefix", fix=fix)
