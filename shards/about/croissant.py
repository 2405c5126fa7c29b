"""``croissant.json``: the folder as MLCommons' Croissant 1.1 describes data sets, for search engines and loaders.

Files are FileSets below the folder of the description; every column of Parquet is a field of a record set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from syllabary.shards import store
from syllabary.shards.about.origin import Origin

NAME = "croissant.json"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(
    title: str, description: str, origin: Origin, record_sets: Mapping[str, tuple[list[str], pa.Schema]], version: str
) -> bytes:
    """The description as JSON-LD.

    Args:
        title: of the data set.
        description: a sentence or two.
        origin: its licence and source.
        record_sets: patterns of the files and columns of each, by name.
        version: of the data set, ``1.0.0``.
    """
    known = {"license": origin.licence, "url": origin.origin if "://" in origin.origin else ""}
    value = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title,
        "description": description,
        "version": version,
        **{name: text for name, text in known.items() if text},
        "distribution": [_file_set(name, patterns) for name, (patterns, _) in record_sets.items()],
        "recordSet": [_record_set(name, schema) for name, (_, schema) in record_sets.items()],
    }
    return store.pretty_json(value)


def _file_set(name: str, patterns: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "encodingFormat": "application/x-parquet",
        "includes": patterns,
    }


def _record_set(name: str, schema: pa.Schema) -> dict[str, Any]:
    fields = [_field(name, field) for field in schema]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(record_set: str, field: pa.Field) -> dict[str, Any]:
    kind = field.type
    own: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{field.name}",
        "name": field.name,
        "source": {"fileSet": {"@id": f"{record_set}-files"}, "extract": {"column": field.name}},
    }
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
        own |= {"isArray": True, "arrayShape": str(length)}
        kind = kind.value_type
    return own | {"dataType": _data_type(kind)}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Boolean" if pa.types.is_boolean(kind) else "sc:Text"
