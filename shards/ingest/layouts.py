"""What a source can be, in words: by itself, since the command line names them before anything is built."""

from __future__ import annotations

from typing import Literal

Layout = Literal["auto", "librilight", "folder", "manifest", "nemo", "lhotse", "kaldi", "table", "parquet", "tar"]
