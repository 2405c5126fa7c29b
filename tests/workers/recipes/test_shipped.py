"""What ships is what the defaults say, and what its demo recipe begins with."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from syllabary.shards import store
from syllabary.workers.control.jobs import DecodeJob, EncodeJob, PipelineParameters
from syllabary.workers.recipes import shipped
from syllabary.workers.recipes.beginning import fitting_kind
from syllabary.workers.recipes.named import RECIPES, demo_of, fast16k, tiny
from syllabary.workers.recipes.shipped import SHIPPED, beginning_of, default_tokenizer, demo_recipe

ROOT = Path(__file__).parent.parent.parent.parent
MOST_BYTES = 50 << 20  # of a file: beyond it hosts of repositories warn, or refuse
MOST_PARAMETERS = 45e6


def test_the_switch_and_the_package_agree() -> None:
    """Whoever puts a tokenizer into shards/builtin sets SHIPPED, and has its demo recipe; no one else sets it."""
    assert (SHIPPED in store.builtin_names()) if SHIPPED else not store.builtin_names()
    assert demo_recipe() in RECIPES
    if SHIPPED:
        assert f"builtin:{SHIPPED}" in (ROOT / "README.md").read_text()
        assert fitting_kind(f"builtin:{SHIPPED}", RECIPES[demo_recipe()]()) == "tokenizer"


@pytest.mark.parametrize("name", store.builtin_names())
def test_what_ships_is_small_and_whole(name: str) -> None:
    from syllabary.workers.tokenizer.directory import load_tokenizer

    for entry in store.list_files(f"builtin:{name}"):
        assert entry.size_bytes < MOST_BYTES, f"{entry.name} has {entry.size_bytes:,} bytes"
    files = load_tokenizer(f"builtin:{name}")
    assert files.decoder_state is not None
    parameters = [*files.encoder_state.values(), *files.decoder_state.values()]
    assert sum(weights.numel() for weights in parameters) <= MOST_PARAMETERS


def test_with_a_shipped_tokenizer_encode_decode_and_run_take_it() -> None:
    assert default_tokenizer("voice") == "builtin:voice" and default_tokenizer("") is ...
    assert demo_recipe("voice") == "voice_demo" and demo_recipe("") == "tiny"
    assert beginning_of("voice_demo", "voice") == "builtin:voice"
    assert beginning_of("tiny", "voice") == beginning_of("tiny", "") == "none"
    assert PipelineParameters(init="none", recipe="voice_demo").begins_with == "none"
    assert PipelineParameters(init="builtin:other").begins_with == "builtin:other"
    assert EncodeJob.model_fields["tokenizer"].is_required() is not bool(SHIPPED)
    assert DecodeJob.model_fields["tokenizer"].is_required() is not bool(SHIPPED)


def test_the_one_constant_switches_every_default(tmp_path: Path) -> None:
    """With another value of it in the source, in a process of its own: nothing else has to be edited."""
    source = inspect.getsource(shipped).replace(f'SHIPPED: str = "{SHIPPED}"', 'SHIPPED: str = "voice"')
    (tmp_path / "shipped.py").write_text(source)
    code = (
        "import json, sys\nfrom importlib.machinery import SourceFileLoader\nimport syllabary.workers.recipes as room\n"
        f"room.shipped = SourceFileLoader(room.__name__ + '.shipped', {str(tmp_path / 'shipped.py')!r}).load_module()\n"
        "from syllabary.workers.control.jobs import DecodeJob, EncodeJob, PipelineParameters\n"
        "jobs = EncodeJob(files=['a']).tokenizer, DecodeJob(files=['a']).tokenizer\n"
        "run = PipelineParameters()\n"
        "print(json.dumps([*jobs, run.recipe, run.begins_with, PipelineParameters(recipe='tiny').begins_with]))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == ["builtin:voice", "builtin:voice", "voice_demo", "builtin:voice", "none"]


@pytest.mark.parametrize("make", [tiny, fast16k])
def test_a_demo_takes_few_gentle_steps_of_the_same_model(make) -> None:
    whole, demo = make(), demo_of(make())
    assert demo.model == whole.model and demo.name == f"{whole.name}_demo"
    assert demo.pretrain.num_steps + demo.codec.num_steps <= 80
    assert demo.codec.optimizer.lr < whole.codec.optimizer.lr / 4
    assert demo.codec.vocoder.optimizer.lr < whole.codec.vocoder.optimizer.lr / 4
    assert demo.pretrain.optimizer.lr == whole.pretrain.optimizer.lr
    assert demo.pretrain.num_workers == demo.codec.num_workers == 2
    assert demo.codec.vocoder.discriminator_start_step >= demo.codec.num_steps  # untrained judges have no say
    assert demo.codec.method == whole.codec.method and demo.ingest.valid_percent == 10
