"""Compiled blocks: the same weights, names and values as plain ones, and only where they gain something."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from syllabary.model.codec import Codec
from syllabary.model.config import AttentionConfig
from syllabary.model.encoder import Encoder
from syllabary.model.spectral.front_end import ConvNeXtStage
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.training import compiling, loop
from syllabary.workers.training.compiling import as_written, compile_blocks, compile_engines
from syllabary.workers.training.loop import Run

GPU = torch.device("cuda")  # only its name is read


class Tracer:
    """A backend of torch.compile that keeps every graph and runs it as it is."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    yield
    torch.compiler.reset()


def encoder_of(name: str) -> Encoder:
    """A recipe's encoder, of one block a stage."""
    torch.manual_seed(0)
    front_end = "model.encoder.front_end."
    few = (f"{front_end}num_residual_blocks=1",) if name == "tiny_paper" else ()
    return Encoder(resolve(name, overrides=("model.encoder.conformer.num_layers=1", *few)).model.encoder)


def gradients(encoder: Encoder, num_samples: int) -> list[torch.Tensor]:
    """Latents of two clips and the gradients of their sum of squares, whatever dropout leaves out being the same."""
    torch.manual_seed(2)
    wave = 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(1))
    encoder.zero_grad()
    latents = encoder(wave, torch.tensor([num_samples, num_samples // 2])).latents
    latents.square().sum().backward()
    return [latents.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["tiny", "tiny_paper"])
def test_a_compiled_encoder_has_the_values_gradients_and_names_of_a_plain_one(name: str) -> None:
    plain = encoder_of(name)
    compiled, tracer = copy.deepcopy(plain), Tracer()
    count = compile_blocks(compiled, backend=tracer)  # type: ignore[arg-type]
    hop = resolve(name).model.framing.hop_length
    wanted, found = gradients(plain, 4 * hop), gradients(compiled, 4 * hop)
    assert len(wanted) == len(found) > 10
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(tracer.graphs) == count >= 2, "a block is one graph: nothing in it waits for the CPU"
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_a_deep_network_is_compiled_to_its_last_block() -> None:
    """Of one kind of block torch compiles eight forms and leaves the ninth plain, unless it is told otherwise."""
    stages = [ConvNeXtStage(4, 3, 2, number, attention=AttentionConfig()) for number in range(1, 11)]
    network, tracer = nn.Sequential(*stages), Tracer()
    assert compile_blocks(network, backend=tracer) == 10  # type: ignore[arg-type]
    x = torch.zeros(1, 4, 8)
    for stage in stages:
        stage(x, None)
    assert len(tracer.graphs) == 10


def test_held_out_clips_of_any_length_are_computed_as_written() -> None:
    encoder, tracer = encoder_of("tiny"), Tracer()
    compile_blocks(encoder, backend=tracer)  # type: ignore[arg-type]
    wave = torch.zeros(1, 4 * 6400)

    def validate() -> dict[str, float]:
        return {"loss": float(encoder(wave, torch.tensor([wave.shape[1]])).latents.detach().square().mean())}

    stage: Any = SimpleNamespace(
        headline="loss", validate=validate, warnings=lambda _: [], illustrate=lambda step: None
    )
    nothing: Any = None
    history: Any = SimpleNamespace(add=lambda *_: None, publish=lambda _: None, validations=list)
    run = Run("", nothing, nothing, lambda _: None, is_compiled=True, history=history)
    loop._validate(stage, run)
    assert not tracer.graphs
    run.is_compiled = False
    loop._validate(stage, run)
    assert tracer.graphs, "or the line above says nothing"


def engines(module: nn.Module) -> dict[str, Any]:
    return {"one": SimpleNamespace(module=module)}


@pytest.fixture
def able(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has all that compiling needs."""
    monkeypatch.setattr(compiling, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("device", "asked", "is_compiled"), [("cuda", "auto", True), ("cuda", "never", False), ("cpu", "auto", False)]
)
def test_blocks_are_compiled_on_a_gpu_unless_forbidden(device: str, asked: Any, is_compiled: bool) -> None:
    encoder, said = encoder_of("tiny"), list[str]()
    found = compile_engines(engines(encoder), TrainConfig(compile=asked), torch.device(device), said.append)
    assert found is is_compiled
    assert is_compiled_anywhere(encoder) is is_compiled
    count = sum(isinstance(part, compiling._BLOCKS) for part in encoder.modules())
    expected = [f"compiles {count} blocks for cuda: the first steps take a minute or more"]
    assert said == (expected if is_compiled else [])


@pytest.mark.usefixtures("able")
def test_what_no_engine_trains_stays_plain() -> None:
    codec = Codec(resolve("tiny").model)
    assert compile_engines(engines(codec.generator), TrainConfig(), GPU, lambda _: None)
    assert is_compiled_anywhere(codec.generator) and not is_compiled_anywhere(codec.encoder)


@pytest.mark.usefixtures("able")
def test_a_network_without_large_blocks_says_nothing() -> None:
    said = list[str]()
    assert not compile_engines(engines(nn.Linear(2, 2)), TrainConfig(), GPU, said.append)
    assert not said


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ("new torch", f"torch {torch.__version__} cannot leave held-out clips out of it, 2.6 can"),
        ("triton", "the package triton is not installed"),
        ("compiler", "triton needs a C compiler, and none of cc, gcc, clang is here"),
        ("CC", "triton needs a C compiler, and none of my-cc is here"),
        ("new GPU", "triton needs compute capability 7.0, and this GPU has 6.1"),
        ("Python.h", "triton needs the headers of Python, and /nowhere/Python.h is not here"),
    ],
)
def test_a_gpu_without_what_compiling_needs_trains_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, lacks: str, told: str
) -> None:
    if lacks == "triton":
        monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    elif lacks == "new torch":
        monkeypatch.delattr(torch.compiler, "set_stance")
    elif lacks == "new GPU":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    elif lacks == "Python.h":
        monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    else:
        monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    if lacks == "CC":
        monkeypatch.setenv("CC", "my-cc")
    encoder, said = encoder_of("tiny"), list[str]()
    assert not compile_engines(engines(encoder), TrainConfig(), GPU, said.append)
    assert said == [f"steps are not compiled, and slower by what starting their kernels takes: {told}"]
    assert not is_compiled_anywhere(encoder)


def test_the_stance_of_compiling_is_put_back() -> None:
    with pytest.raises(ZeroDivisionError), as_written(True):
        _ = 1 / 0
    encoder, tracer = encoder_of("tiny"), Tracer()
    compile_blocks(encoder, backend=tracer)  # type: ignore[arg-type]
    encoder(torch.zeros(1, 4 * 6400), torch.tensor([4 * 6400]))
    assert tracer.graphs


def is_compiled_anywhere(module: nn.Module) -> bool:
    return any(part._compiled_call_impl is not None for part in module.modules())
