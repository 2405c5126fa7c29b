"""What Prefect's form and server take as parameters of a run: URIs without keys, checked before a run is stored."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema

from syllabary.flows.ingest_new import ingest_new
from syllabary.flows.job_flow import URI_PATTERN
from syllabary.flows.run_pipeline import run_pipeline
from syllabary.shards.errors import SecretError, refuse_keys

KEYED = ("s3://KEYID:SECRETKEY@bucket/x", "s3://SECRETKEY@bucket/x", "s3://bucket/x?X-Amz-Signature=SECRETKEY")
PLAIN = ("s3://bucket", "s3://bucket/106/book@0001.flac", "s3://bucket/a:b", "/data/a@b:c", "./x?y", "runs/12:30",
         "file:///data/x")  # fmt: skip
NO_URI = ("", "gs://bucket/x", "https://host/x", "s3://", "s3:///x")


@pytest.mark.parametrize("uri", KEYED)
def test_the_form_and_the_jobs_refuse_the_same_keys(uri: str) -> None:
    assert not re.match(URI_PATTERN, uri)
    with pytest.raises(SecretError):
        refuse_keys(uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_what_jobs_take_the_form_takes(uri: str) -> None:
    assert re.match(URI_PATTERN, uri)
    refuse_keys(uri)


@pytest.mark.parametrize("uri", NO_URI)
def test_what_is_no_place_of_ours_is_refused_in_the_form(uri: str) -> None:
    assert not re.match(URI_PATTERN, uri)


@pytest.fixture
def deployment(server: str) -> Any:
    """The nightly run on the server, with the schema that its form is made of."""
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name(ingest_new.name)
        schema = parameter_schema(ingest_new).model_dump_for_openapi()
        return client.create_deployment(flow, "nightly", parameter_openapi_schema=schema, enforce_parameter_schema=True)


def values(**changes: str) -> dict[str, str]:
    return {"source": "s3://b/in", "shards": "s3://b/s", "tokenizer": "s3://b/t", "archive": "s3://b/a", **changes}


@pytest.mark.parametrize("field", ["source", "archive", "config"])
@pytest.mark.parametrize("uri", KEYED)
def test_a_run_with_keys_in_its_parameters_is_never_stored(field: str, uri: str, deployment: Any) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="409"):
        run_deployment(deployment, parameters=values(**{field: uri}), timeout=0, as_subflow=False)
    run = run_deployment(deployment, parameters=values(config="s3://b/mine.yaml"), timeout=0, as_subflow=False)
    assert run.parameters["config"] == "s3://b/mine.yaml"  # type: ignore[union-attr]
    stored = database()
    assert "s3://b/mine.yaml" in stored and "SECRETKEY" not in stored


def database() -> str:
    """Everything in Prefect's database, as SQL."""
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as connection:
        return "\n".join(connection.iterdump())


def test_a_flow_called_from_code_checks_the_same() -> None:
    with pytest.raises(ParameterTypeError, match="should match pattern"):
        run_pipeline.validate_parameters({"source": KEYED[0], "out": "x"})
    assert run_pipeline.validate_parameters({"source": PLAIN[1], "out": PLAIN[-2]})["out"] == PLAIN[-2]
