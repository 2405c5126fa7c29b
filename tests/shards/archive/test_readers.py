"""Token values of a plain archive as other people's Parquet readers read them, not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import fastparquet
import numpy as np
import polars as pl
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest

from tests.helpers.archive_corpus import FORMAT, make_archive

Tokens = dict[str, list[int]]


@pytest.fixture(scope="module", params=["a row group", "many row groups"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokens]:
    """An archive, and the tokens of each utterance as the digits say them; salience is told apart by its sum."""
    folder = tmp_path_factory.mktemp("readers")
    size = 4096 if request.param == "a row group" else 16
    truth = make_archive(str(folder), row_group_size=size)
    for part in sorted((folder / "parts").iterdir()):
        group = pq.ParquetFile(part).metadata.row_group(0)
        tokens = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("tokens"))
        assert tokens.has_dictionary_page == (request.param == "a row group"), "both are read"
    return folder, {name: FORMAT.packing.pack(digits).reshape(-1).tolist() for name, digits in truth.items()}


def test_pyarrow_reads_every_token(archive) -> None:
    folder, expected = archive
    rows = pds.dataset(folder / "parts", format="parquet").to_table(columns=["utterance_id", "tokens"])
    assert dict(zip(rows["utterance_id"].to_pylist(), rows["tokens"].to_pylist(), strict=True)) == expected
    assert pq.read_table(folder / "parts", columns=["tokens"])["tokens"].to_pylist() == rows["tokens"].to_pylist()


def test_duckdb_reads_every_token(archive) -> None:
    folder, expected = archive
    rows = duckdb.sql(f"select utterance_id, tokens from read_parquet('{folder}/parts/*.parquet')").fetchall()
    assert dict(rows) == expected


def test_polars_reads_every_token(archive) -> None:
    folder, expected = archive
    rows = pl.scan_parquet(folder / "parts/*.parquet").select("utterance_id", "tokens").collect()
    assert dict(rows.iter_rows()) == expected and rows.schema["tokens"] == pl.List(pl.UInt16)


def test_fastparquet_reads_every_token(archive) -> None:
    folder, expected = archive
    found: Tokens = {}
    for part in sorted((folder / "parts").iterdir()):
        frame = fastparquet.ParquetFile(str(part)).to_pandas(columns=["utterance_id", "tokens"])
        found |= {name: list(own) for name, own in zip(frame["utterance_id"], frame["tokens"], strict=True)}
    assert found == expected


def test_fastparquet_does_not_read_the_compact_form(tmp_path: Path) -> None:
    """Why plain is the default: when this fails, its reader has learned, and the record may be looked at again."""
    make_archive(str(tmp_path), ("train-000000",), form=replace(FORMAT, encoding="compact"))
    with pytest.raises(Exception):  # noqa: B017 - whatever it raises where it does not know an encoding
        fastparquet.ParquetFile(str(tmp_path / "parts/train-000000.parquet")).to_pandas(columns=["tokens"])


OLD_READERS = {
    "duckdb==1.1.3": "import duckdb\nrows = duckdb.sql(f\"select utterance_id, tokens from '{parts}'\").fetchall()",
    "polars==0.20.31": "import polars\nrows = polars.read_parquet(parts, columns=['utterance_id', 'tokens']).rows()",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", OLD_READERS)
def test_readers_of_years_ago_read_every_token(archive, package: str, tmp_path: Path) -> None:
    """Each is fetched into a folder of its own: two of one name do not go into one environment."""
    folder, expected = archive
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), package]
    subprocess.run(pip, check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); parts = {str(folder)!r} + '/parts/*.parquet'\n"
        f"{OLD_READERS[package]}\nimport json; print(json.dumps(dict(rows)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name: np.array(own).tolist() for name, own in eval(finished.stdout).items()} == expected


SPARK = """
import json, sys
from pyspark.sql import SparkSession
spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
         .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate())
rows = spark.read.parquet(sys.argv[1] + "/parts").select("utterance_id", "tokens").collect()
print(json.dumps({row["utterance_id"]: list(row["tokens"]) for row in rows}))
spark.stop()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs a Java runtime (default-jre-headless)")
def test_spark_reads_every_token(archive, tmp_path: Path) -> None:
    """Its vectorized reader, on one machine; fetched into a folder of its own, since nothing else here needs a JVM."""
    folder, expected = archive
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), "pyspark==3.5.3"]
    subprocess.run(pip, check=True)
    surroundings = {"PYTHONPATH": str(tmp_path), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    finished = subprocess.run(
        [sys.executable, "-c", SPARK, str(folder)], capture_output=True, text=True, check=True,
        env={**os.environ, **surroundings},
    )  # fmt: skip
    assert json.loads(finished.stdout.splitlines()[-1]) == expected
