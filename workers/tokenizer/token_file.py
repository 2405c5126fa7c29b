"""A token file: the tokens of one utterance as safetensors, for ``syllabary encode`` and ``decode``.

Tensors ``tokens`` uint16 [num_frames, num_groups] and ``salience`` uint8 [num_frames]; the metadata names format
version, length, rate, margin and the encoder digest that fixes what the tokens mean. Corpora go to an archive instead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from syllabary.shards import store
from syllabary.shards.errors import DamageError, FormatError, require_version

FORMAT_VERSION = "1"
KIND = "syllabary-tokens"
SUFFIX = ".tokens.safetensors"


@dataclass(frozen=True)
class TokenFile:
    """Tokens of one utterance with what is needed to decode them; ``num_samples`` at ``sample_rate``."""

    tokens: NDArray[np.uint16]
    salience: NDArray[np.uint8]
    num_samples: int
    sample_rate: int
    margin: float
    encoder_digest: str


def write_token_file(uri: str, content: TokenFile) -> None:
    """Publish a token file; equal content gives equal bytes."""
    store.publish_bytes(uri, encode_token_file(content))


def encode_token_file(content: TokenFile) -> bytes:
    """The bytes of a token file, equal for equal content."""
    metadata = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "num_samples": str(content.num_samples),
        "sample_rate": str(content.sample_rate),
        "margin": repr(content.margin),
        "encoder_digest": content.encoder_digest,
    }
    tensors: dict[str, NDArray[np.generic]] = {
        "tokens": np.ascontiguousarray(content.tokens),
        "salience": np.ascontiguousarray(content.salience),
    }
    return safetensors.numpy.save(tensors, {"syllabary": json.dumps(metadata, sort_keys=True)})


def read_token_file(uri: str) -> TokenFile:
    """Read a token file.

    Raises:
        NotFoundError: nothing there.
        FormatError, VersionError, DamageError: another kind of file, an unknown version, or damage.
    """
    data = store.read_bytes(uri)
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise FormatError(
            f"not a token file ({error})",
            value=uri,
            expected=f"a {SUFFIX} file",
            fix="give a file that `syllabary encode` wrote",
        ) from error
    metadata = _metadata(header)
    if metadata.get("kind") != KIND:
        raise FormatError(
            "safetensors of another kind",
            value=uri,
            expected=f"a {SUFFIX} file",
            fix="give a file that `syllabary encode` wrote",
        )
    require_version(metadata.get("format_version"), FORMAT_VERSION, f"token file version in {uri}")
    return _token_file(uri, tensors, metadata)


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """What ``write_token_file`` wrote beside the tensors; empty for a foreign file."""
    try:
        values = json.loads(header.get("__metadata__", {}).get("syllabary", "{}"))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _token_file(uri: str, tensors: dict[str, NDArray[np.generic]], metadata: dict[str, str]) -> TokenFile:
    try:
        return TokenFile(
            tokens=tensors["tokens"].astype(np.uint16, casting="no"),
            salience=tensors["salience"].astype(np.uint8, casting="no"),
            num_samples=int(metadata["num_samples"]),
            sample_rate=int(metadata["sample_rate"]),
            margin=float(metadata["margin"]),
            encoder_digest=metadata["encoder_digest"],
        )
    except (KeyError, ValueError, TypeError) as error:
        what = f"token file lacks or garbles {error}"
        raise DamageError(what, value=uri, fix="encode the audio again") from error
