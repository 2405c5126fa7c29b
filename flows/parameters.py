"""The types of the parameters that several flows share, for the form that Prefect makes of them.

Prefect takes titles from names and descriptions from the flow's docstring; what is here is what it checks and suggests.
Its server checks before it stores a run, so a URI with keys in it (shards/uri_keys.py) gets no further than the form.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from syllabary.workers.recipes.recipe import RECIPES

_URI = r"^(s3://[^/ @?]+(/[^?]*)?|file:///.*|([^:]|:[^/])+)$"


def _uri(example: str) -> object:
    return Field(examples=[example], pattern=_URI, min_length=1)


Source = Annotated[str, _uri("s3://bucket/speech")]
Shards = Annotated[str, _uri("s3://bucket/run/shards")]
Tokenizer = Annotated[str, _uri("s3://bucket/run/tokenizer")]
Archive = Annotated[str, _uri("s3://bucket/run/archive")]
EncoderRun = Annotated[str, _uri("s3://bucket/run/pretrain")]
Out = Annotated[str, _uri("s3://bucket/run")]
ConfigFile = Annotated[str, _uri("s3://bucket/recipes/mine.yaml")]
Transcripts = Annotated[str, _uri("s3://bucket/transcripts.tsv")]
RecipeName = Annotated[str, Field(json_schema_extra={"enum": sorted(RECIPES)})]
Overrides = Annotated[tuple[str, ...], Field(examples=[["pretrain.num_steps=1000"]])]
NumWorkers = Annotated[int | None, Field(ge=1)]
