"""``syllabary export --format onnx|torch``: a tokenizer as two graphs that run without this package.

OUT/encoder.onnx, decoder.onnx (or .pt2)    one clip of any number of frames (``model/portable/graphs.py``)
OUT/graphs.json                             what the reader needs, and digests of graphs and weights; written last
OUT/read_onnx.py, README.md                 a reader with numpy and onnxruntime alone, and how to call it
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from syllabary.model.codec import Fsq, make_generator
from syllabary.model.encoder import Encoder
from syllabary.model.portable.graphs import DecoderGraph, EncoderGraph
from syllabary.shards.errors import ConflictError, InputError
from syllabary.shards.store import Folder
from syllabary.workers.control.extras import require_extras
from syllabary.workers.control.log import say
from syllabary.workers.recipes.bitrates import packing_of
from syllabary.workers.tokenizer.directory import TokenizerFiles, load_tokenizer, publish_card

GRAPHS, READER = "graphs.json", "read_onnx.py"
FORMAT_VERSION = 1
_OPSET = 20
_EXAMPLE_FRAMES = 8  # whatever the example's length, any length runs
_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
_MOST_FRAMES = 1 << 16
Form = Literal["onnx", "torch"]

_ABOUT = """# Syllabary tokenizer as {form} graphs

| graph | input | output |
| --- | --- | --- |
| `encoder{suffix}` | `waveform` float32 [1, frames x {hop}], at {rate:,} Hz and {loudness:g} dBFS | `digits` uint8 [1, {dims}, frames], `margin` float32 [1, frames] |
| `decoder{suffix}` | `digits` uint8 [1, {dims}, frames] | `waveform` float32 [1, frames x {hop}] |

`graphs.json` has their digests and what else a reader needs: windows of {window} frames to encode in, {context} frames of
context on either side to decode in chunks, and how digits make tokens. {reader}

Encoder digest `{encoder}`, decoder digest `{decoder}`: tokens and sound are those of the tokenizer of these digests,
except where a value lies on the border between two digits (`margin` near 0), which another runtime rounds its own way.
"""  # noqa: E501


def export_graphs(tokenizer: str, out: str, form: Form) -> dict[str, Any]:
    """Write the tokenizer at a URI as graphs, unless they are there; returns the digests of weights and graphs.

    Raises:
        ExtraError: packages for ONNX are not installed.
        InputError: the encoder computes in bf16, or the decoder has gates over whole clips.
        ConflictError: the graphs of another tokenizer are there, or a README.md of somebody's own.
    """
    if form == "onnx":
        require_extras(("onnx",), "export --format onnx")
    files, folder = load_tokenizer(tokenizer), Folder(out)
    _require_portable(files)
    about = _about(files, form)
    if (present := _present(folder, about)) is not None:
        about = present
    else:
        _publish_text(folder, files, form)
        about["graphs"] = {name: _publish(folder, name, form, *graph) for name, graph in _graphs(files).items()}
        folder.publish_json(GRAPHS, about)
    digests = {name: graph["sha256"] for name, graph in about["graphs"].items()}
    weights = {"encoder_digest": files.digests.encoder, "decoder_digest": files.digests.decoder}
    return {"out": out, "format": form, **weights, "graphs": digests}


def _require_portable(files: TokenizerFiles) -> None:
    if files.config.encoder.precision != "fp32":
        raise InputError("export of an encoder in", value=files.config.encoder.precision, expected="fp32")
    if not _empty_generator(files).is_local:
        raise InputError("export of a decoder with gates over whole clips", fix="train one with decoder.daam=false")


def _empty_generator(files: TokenizerFiles) -> Any:
    """The generator without its weights."""
    with torch.device("meta"):
        return make_generator(files.config)


def _about(files: TokenizerFiles, form: Form) -> dict[str, Any]:
    config, packing = files.config, packing_of(files.config)
    return {
        "kind": "syllabary-graphs",
        "format_version": FORMAT_VERSION,
        "format": form,
        "encoder_digest": files.digests.encoder,
        "decoder_digest": files.digests.decoder,
        "sample_rate": config.encoder.sample_rate,
        "hop_length": config.framing.hop_length,
        "loudness_dbfs": config.encoder.loudness_dbfs,
        "window_frames": config.framing.window_frames,
        "context_frames": _empty_generator(files).context_frames,
        "num_dims": packing.num_dims,
        "levels": packing.levels,
        "packing": str(packing),
        "radices": [list(group) for group in packing.radices],
        "digit_weights": packing.weights.tolist(),
        "torch": torch.__version__,
        "graphs": {},
    }


def _publish(out: Folder, name: str, form: Form, graph: nn.Module, example: Tensor, shape: dict[int, Any]) -> Any:
    """Write one graph; returns what ``graphs.json`` says of it."""
    say("export", f"{name}: {form}")
    with _quiet():
        data = _onnx(graph, example, shape) if form == "onnx" else _exported(graph, example, shape)
    file = name + _SUFFIX[form]
    out.publish(file, data)
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def _present(out: Folder, about: dict[str, Any]) -> dict[str, Any] | None:
    """What is there already; None where nothing is. Raises ConflictError: other graphs are."""
    if not out.exists(GRAPHS):
        return None
    description = out.read_json(GRAPHS)
    keys = ("kind", "format", "encoder_digest", "decoder_digest")
    if [description.get(key) for key in keys] != [about[key] for key in keys]:
        value = str(description.get("encoder_digest"))[:16]
        raise ConflictError(f"other graphs are at {out.uri}, encoder digest", value=value, fix="use another --out")
    return dict(description)


def _graphs(files: TokenizerFiles) -> dict[str, tuple[nn.Module, Tensor, dict[int, Any]]]:
    """Each graph with an example of its input and what of its shape varies."""
    config = files.config
    fsq, hop = Fsq(config.fsq, config.encoder.latent_dim), config.framing.hop_length
    encoder, generator = Encoder(config.encoder), make_generator(config)
    encoder.load_state_dict(files.encoder_state)
    assert files.decoder_state is not None
    generator.load_state_dict(files.decoder_state)
    frames = torch.export.Dim("frames", min=1, max=_MOST_FRAMES)
    digits = torch.arange(config.encoder.latent_dim * _EXAMPLE_FRAMES) % config.fsq.levels
    digits = digits.to(torch.uint8).view(1, config.encoder.latent_dim, _EXAMPLE_FRAMES)
    waveform = torch.linspace(-1, 1, _EXAMPLE_FRAMES * hop)[None]
    return {
        "encoder": (EncoderGraph(encoder, fsq).eval(), waveform, {1: hop * frames}),
        "decoder": (DecoderGraph(generator, fsq).eval(), digits, {2: frames}),
    }


_NAMES: dict[type[nn.Module], tuple[list[str], list[str]]] = {
    EncoderGraph: (["waveform"], ["digits", "margin"]),
    DecoderGraph: (["digits"], ["waveform"]),
}


def _onnx(graph: nn.Module, example: Tensor, shape: dict[int, Any]) -> bytes:
    inputs, results = _NAMES[type(graph)]
    program = torch.onnx.export(
        graph, (example,), input_names=inputs, output_names=results, dynamic_shapes=(shape,), dynamo=True,
        opset_version=_OPSET, external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    return bytes(program.model_proto.SerializeToString(deterministic=True))


def _exported(graph: nn.Module, example: Tensor, shape: dict[int, Any]) -> bytes:
    program = torch.export.export(graph, (example,), dynamic_shapes=(shape,), strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _publish_text(out: Folder, files: TokenizerFiles, form: Form) -> None:
    about, is_onnx = _about(files, form), form == "onnx"
    reader = f"`{READER}` is such a reader, with numpy and onnxruntime alone." if is_onnx else ""
    text = _ABOUT.format(
        form="ONNX" if is_onnx else "torch.export", suffix=_SUFFIX[form], hop=about["hop_length"],
        rate=about["sample_rate"], loudness=about["loudness_dbfs"], dims=about["num_dims"],
        window=about["window_frames"], context=about["context_frames"], reader=reader,
        encoder=files.digests.encoder, decoder=files.digests.decoder,
    )  # fmt: skip
    publish_card(out, GRAPHS, text.encode())
    if is_onnx:
        out.publish(READER, (Path(__file__).parent / READER).read_bytes())
