"""Where the speech of ``speech16k`` comes from, by the path of a recording: corpus, licence, credit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from syllabary.shards.errors import InputError


@dataclass(frozen=True)
class Source:
    """A corpus; ``pattern`` is found in the paths of its recordings."""

    name: str
    licence: str
    credit: str
    pattern: str


LIBRISPEECH = Source(
    "LibriSpeech train-clean-100 (OpenSLR SLR12)",
    "CC BY 4.0",
    "V. Panayotov, G. Chen, D. Povey, S. Khudanpur, ICASSP 2015; read by volunteers of LibriVox (public domain)",
    r"/ls\d+/ls\d+\.ogg$|/\d+/[^/]*_librispeech_16k/[^/]+\.flac$",
)
SOURCES = (
    LIBRISPEECH,
    Source(
        "speechocean762 (OpenSLR SLR101): Mandarin speakers reading English, half of them children",
        "CC BY 4.0",
        "J. Zhang et al., Interspeech 2021",
        r"/so\d+/so\d+\.ogg$",
    ),
    Source("CMU ARCTIC", "CMU ARCTIC licence (free)", "J. Kominek, A. Black, 2004", r"/ar(bdl|slt)/ar(bdl|slt)\.ogg$"),
    Source("Kathleen voice dataset", "CC0 1.0", "M. Hansen", r"/cathy/cathy\.ogg$"),
)


def source_of(path: str) -> Source:
    """The corpus that a recording belongs to. Raises InputError: none of those that are known, or several."""
    found = [source for source in SOURCES if re.search(source.pattern, "/" + path)]
    if len(found) != 1:
        fix = "add its corpus and licence to infra/speech16k/sources.py"
        raise InputError("a recording of no known source", value=path, expected="exactly one", fix=fix)
    return found[0]
