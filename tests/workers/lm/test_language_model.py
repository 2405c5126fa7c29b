"""A language model of blocks: its loss is that over possible ids, it learns what is there, resumes and speaks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.dataset import INDEX_SCHEMA
from syllabary.shards.errors import ConfigError, ConflictError, DamageError, FormatError, InputError, NotFoundError
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import LmEvalJob, LmSampleJob, LmTrainJob, PackJob
from syllabary.workers.lm import evaluate
from syllabary.workers.lm import train as lm_training
from syllabary.workers.lm.blocks_data import BlockSource, Vocabulary, frames_of
from syllabary.workers.lm.directory import load_model, save_model
from syllabary.workers.lm.evaluate import entropies, held_out_nats, lm_eval, shuffled_batch
from syllabary.workers.lm.sample import ValidIds, lm_sample, sample_tokens
from syllabary.workers.lm.speech_lm import LmLoss, label_nats, make_model
from syllabary.workers.lm.train import learning_rate, lm_train, train_lm
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.archive_corpus import RATE, make_archive, make_tokenizer, utterance_rows

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}


def make_copies(uri: str, form: ArchiveFormat) -> None:
    """An archive in which every frame of an utterance is the frame before plus one, digit by digit."""
    from syllabary.shards.archive import parts as token_archive
    from syllabary.shards.archive.encoding import encode_part
    from syllabary.shards.archive.ledger import LEDGER_SCHEMA, TOKENIZED, Ledger, publish_part, sha256
    from syllabary.shards.archive.parts import PartMetadata

    form.claim(uri)
    for seed, shard in enumerate(("train-000000", "valid-000000")):
        rng = np.random.default_rng(seed)
        rows = pa.Table.from_pylist(utterance_rows(shard, seed, 60), schema=INDEX_SCHEMA)
        frames = [form.num_frames(n, RATE) for n in rows["num_samples"].to_pylist()]
        digits = [(rng.integers(0, 4, (1, 128)) // 2 * 2 + np.arange(f)[:, None]) % 4 for f in frames]
        metadata = PartMetadata(form, shard, token_archive.shard_digest(rows))
        salience = [np.zeros(f, np.uint8) for f in frames]
        table = token_archive.part_table(rows, [form.packing.pack(d) for d in digits], salience, metadata)
        part = encode_part(table)
        told = pa.table({n: rows[n] for n in LEDGER_SCHEMA.names if n in rows.column_names})
        told = told.append_column("status", pa.array([TOKENIZED] * len(rows)))
        told = told.append_column("reason", pa.nulls(len(rows), pa.string())).select(LEDGER_SCHEMA.names)
        publish_part(uri, part, Ledger(shard, metadata.shard_digest, sha256(part), len(part), told.cast(LEDGER_SCHEMA)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    form = archive_format(Tokenizer.load(make_tokenizer(str(folder / "tokenizer")), decoder=False))
    make_copies(str(folder / "archive"), form)
    pack(PackJob(archive=str(folder / "archive"), out=str(folder / "blocks"), block_size=96, document="utterance"))
    return folder


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.of_blocks(str(folder / "blocks"))


def job_of(folder: Path, out: Path, **values) -> LmTrainJob:
    given = {"num_steps": 12, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 2, "checkpoint_every": 4}
    return LmTrainJob(blocks=str(folder / "blocks"), out=str(out), **(SIZES | given | values))


def test_the_loss_is_cross_entropy_over_the_possible_ids(folder: Path, vocabulary: Vocabulary) -> None:
    batch = BlockSource(str(folder / "blocks"), "train", 0).batch(0, 3, CPU)
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 96, 8), torch.randn(vocabulary["vocabulary_size"], 8)
    found = label_nats(hidden, batch["labels"], batch["place"], head, vocabulary)
    sizes = torch.tensor(vocabulary.packing.position_sizes)[batch["place"]]
    possible = torch.arange(len(head)) < sizes[..., None]
    for name in ("gap", "end"):
        possible[..., vocabulary[name]] |= batch["place"] == 0
    dense = (hidden @ head.T).masked_fill(~possible, -torch.inf)
    expected = torch.nn.functional.cross_entropy(
        dense.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum"
    )
    assert found.sum() == pytest.approx(float(expected), rel=1e-5) and len(found) == int((batch["labels"] >= 0).sum())
    wrong = torch.where(batch["place"] == 18, 16, batch["labels"])
    with pytest.raises(ValueError, match="a label that its place cannot hold"):
        label_nats(hidden, wrong, batch["place"], head, vocabulary)


def test_documents_do_not_see_one_another_and_generation_sees_what_training_saw(
    folder: Path, vocabulary: Vocabulary
) -> None:
    torch.manual_seed(0)
    model = make_model(vocabulary, **SIZES).eval()
    source = BlockSource(str(folder / "blocks"), "train", 0)
    batch = next(own for own in (source.batch(i, 1, CPU) for i in range(len(source)))
                 if int(own["document_ids"].max()) >= 2)  # fmt: skip
    names = ("input_ids", "position_ids", "place", "document_ids")
    with torch.no_grad():
        hidden = model.hidden(*(batch[name] for name in names))
        other = batch["input_ids"].clone()
        first = batch["document_ids"][0] == 0
        other[0, first] = (other[0, first] + 1) % 16
        changed = model.hidden(other, *(batch[name] for name in names[1:]))
        begins = torch.nonzero(batch["position_ids"][0] == 0).flatten().tolist()
        start, stop = begins[1], begins[2]
        alone = model(input_ids=batch["input_ids"][:, start:stop]).logits
    assert torch.equal(hidden[0, ~first], changed[0, ~first]) and not torch.equal(hidden[0, first], changed[0, first])
    assert torch.allclose(model.lm_head(hidden[:, start:stop]), alone, atol=1e-4)


def test_every_block_comes_once_an_epoch_and_the_next_in_another_order(folder: Path) -> None:
    source = BlockSource(str(folder / "blocks"), "train", 3)
    epochs = [[source.block(e * len(source) + i)["input_ids"].tobytes() for i in range(len(source))] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    again = BlockSource(str(folder / "blocks"), "train", 3)
    assert [again.block(len(source) + i)["input_ids"].tobytes() for i in (2, 0)] == [epochs[1][2], epochs[1][0]]


def test_frames_of_a_block_are_the_frames_of_its_utterances(folder: Path, vocabulary: Vocabulary) -> None:
    source = BlockSource(str(folder / "blocks"), "valid", 0)
    num = 0
    for i in range(len(source)):
        for run in frames_of(source.block(i), vocabulary):
            digits = vocabulary.packing.unpack(run)
            assert (np.diff(digits.astype(int), axis=0) % 4 == 1).all()
            num += len(digits)
    figures = entropies([r for i in range(len(source)) for r in frames_of(source.block(i), vocabulary)], vocabulary)
    assert figures["num_frames"] == num > 40 and figures["payload_bits_per_s"] == 640.0
    assert figures["context_entropy_bits_per_s"] < figures["digit_entropy_bits_per_s"] < 640.0


def test_a_run_that_was_cut_short_ends_where_an_uncut_one_does(folder: Path, tmp_path: Path, monkeypatch) -> None:
    lines: list[str] = []
    train_lm(job_of(folder, tmp_path / "a"), str(tmp_path / "a"), CPU, 0, 1, lines.append)
    cut = job_of(folder, tmp_path / "b")

    stored = lm_training._store

    def store_and_end(*values):
        stored(*values)
        if values[1] == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lm_training, "_store", store_and_end)
        with pytest.raises(KeyboardInterrupt):
            train_lm(cut, str(tmp_path / "b"), CPU, 0, 1, lines.append)
    train_lm(cut, str(tmp_path / "b"), CPU, 0, 1, lines.append)
    assert "goes on from step 8" in lines
    whole, resumed = (load_model(str(tmp_path / name / "model"), CPU).model.state_dict() for name in ("a", "b"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    state = tmp_path / "b/checkpoints/step-00000008/state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    (tmp_path / "b/checkpoints/step-00000004/manifest.json").unlink()
    with pytest.raises(DamageError, match="no checkpoint is whole"):
        train_lm(cut, str(tmp_path / "b"), CPU, 0, 1, lines.append)


@pytest.mark.long
def test_it_learns_what_there_is_and_nothing_of_what_is_shuffled(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, tmp_path, num_steps=100, hidden_size=64, batch_size=8, checkpoint_every=1000)
    train_lm(job, str(tmp_path), CPU, 0, 1, lambda _: None)
    found = lm_eval(LmEvalJob(model=str(tmp_path / "model"), blocks=job.blocks, out=str(tmp_path / "eval")))
    assert found["bits_per_s"] < 0.8 * found["payload_bits_per_s"]
    assert found["shuffled_bits_per_s"] > found["bits_per_s"]
    assert found["bits_per_s"] == pytest.approx(found["bits_per_token"] * 47.5, rel=1e-3)
    assert (tmp_path / "eval/lm.json").exists()


def test_figures_of_another_run_are_refused_before_anything_is_measured(
    folder: Path, tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(str(tmp_path / "model"), make_model(vocabulary, **SIZES), vocabulary, SIZES)
    job = LmEvalJob(model=str(tmp_path / "model"), blocks=str(folder / "blocks"), out=str(tmp_path / "eval"), limit=1)
    figures = lm_eval(job)
    assert json.loads((tmp_path / "eval/lm.json").read_text()) == figures == lm_eval(job)

    def measure(*_: object, **__: object) -> tuple[float, int]:
        raise AssertionError("measures")

    monkeypatch.setattr(evaluate, "held_out_nats", measure)
    for name, value in (("split", "train"), ("limit", 2), ("seed", 1)):
        with pytest.raises(ConflictError, match=f"belongs to another run: config.{name} was .* and is now {value!r};"):
            lm_eval(job.model_copy(update={name: value}))
    save_model(str(tmp_path / "other"), make_model(vocabulary, **SIZES), vocabulary, SIZES)
    with pytest.raises(ConflictError, match=r"inputs.model was '\w{16}\.\.\.' and is now '\w{16}\.\.\.'; use another"):
        lm_eval(job.model_copy(update={"model": str(tmp_path / "other")}))


def test_shuffled_tokens_keep_their_places_and_lose_their_neighbours(folder: Path, vocabulary: Vocabulary) -> None:
    batch = BlockSource(str(folder / "blocks"), "train", 0).batch(0, 4, CPU)
    other = shuffled_batch(batch, vocabulary, np.random.default_rng(0))
    ids = batch["input_ids"]
    own_place = torch.where(ids < vocabulary.packing.vocabulary, (batch["place"] - 1) % 19, -1)
    for place in range(19):
        of = own_place == place
        assert torch.equal(ids[of].sort().values, other["input_ids"][of].sort().values)
    follows = other["labels"][:, :-1] >= 0
    assert torch.equal(other["labels"][:, :-1][follows], other["input_ids"][:, 1:][follows])
    assert (other["input_ids"] != ids).float().mean() > 0.5
    model = make_model(vocabulary, **SIZES)
    held_out_nats(LmLoss(model, vocabulary), BlockSource(str(folder / "blocks"), "train", 0), 2, 2, CPU, shuffle=True)


def test_samples_hold_possible_ids_only_and_are_sound(folder: Path, tmp_path: Path, vocabulary: Vocabulary) -> None:
    train_lm(job_of(folder, tmp_path / "lm", num_steps=1), str(tmp_path / "lm"), CPU, 0, 1, lambda _: None)
    job = LmSampleJob(model=str(tmp_path / "lm/model"), tokenizer=str(folder / "tokenizer"), out=str(tmp_path / "out"),
                      num_samples=2, duration_s=2.0)  # fmt: skip
    result = lm_sample(job)
    sounds = [soundfile.read(tmp_path / "out" / name) for name in result["files"]]
    assert [(len(sound), rate) for sound, rate in sounds] == [(32_000, RATE)] * 2
    assert not np.array_equal(sounds[0][0], sounds[1][0])
    with soundfile.SoundFile(tmp_path / "out" / result["files"][0]) as file:
        assert file.comment.startswith("decoded by syllabary from tokens, encoder ")
    model = load_model(str(tmp_path / "lm/model"), CPU).model
    torch.manual_seed(0)
    tokens = sample_tokens(model, vocabulary, 5, 1.0, 0.95)
    vocabulary.packing.require_valid(tokens)
    assert tokens.max() > 16, "not the last place's ids everywhere"
    scores = torch.zeros(1, vocabulary["vocabulary_size"])
    for length, size in ((1, 16_384), (19, 16), (20, 16_384)):
        left = ValidIds(vocabulary)(torch.zeros(1, length, dtype=torch.long), scores)
        assert int(torch.isfinite(left).sum()) == size
    make_tokenizer(str(tmp_path / "other"), seed=9)
    with pytest.raises(ConflictError, match="tokenizer of another encoder"):
        lm_sample(job.model_copy(update={"tokenizer": str(tmp_path / "other")}))
    save_model(str(tmp_path / "lm2"), make_model(vocabulary, **SIZES), vocabulary, SIZES)
    with pytest.raises(ConflictError, match=r"belongs to another run: inputs.model was"):
        lm_sample(job.model_copy(update={"model": str(tmp_path / "lm2")}))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(InputError, match=rf"device.*: '{device}'; expected cpu"):
        lm_eval(LmEvalJob(model="none", blocks="none", device=device))
    with pytest.raises(InputError, match=rf"device.*: '{device}'; expected cpu"):
        lm_sample(LmSampleJob(model="none", tokenizer="none", out="none", device=device))


def test_what_a_model_cannot_learn_from_is_refused(folder: Path, tmp_path: Path) -> None:
    archive = str(folder / "archive")
    pack(PackJob(archive=archive, out=str(tmp_path / "megatron"), output_format="megatron"))
    pack(PackJob(archive=archive, out=str(tmp_path / "novalid"), where="split = 'train'"))
    make_archive(str(tmp_path / "a"), ("valid-000000",))
    pack(PackJob(archive=str(tmp_path / "a"), out=str(tmp_path / "foreign")))
    for name, error, message in (
        ("megatron", InputError, "blocks in another form: 'megatron'"),
        ("novalid", NotFoundError, "no blocks of the split valid"),
        ("none", NotFoundError, "none"),
    ):
        with pytest.raises(error, match=message):
            lm_train(job_of(tmp_path, tmp_path / "out").model_copy(update={"blocks": str(tmp_path / name)}))
    with pytest.raises(ConfigError, match="hidden size: 30"):
        lm_train(job_of(folder, tmp_path / "out", hidden_size=30, num_heads=4))
    with pytest.raises(ConfigError, match="batch size: 3"):
        lm_train(job_of(folder, tmp_path / "out", batch_size=3, num_workers=2))
    train_lm(job_of(folder, tmp_path / "lm", num_steps=1), str(tmp_path / "lm"), CPU, 0, 1, lambda _: None)
    with pytest.raises(
        ConflictError, match=r"blocks of other ids than the model's, encoder digest: '\w{16}'; expected \w{16};"
    ):
        lm_eval(LmEvalJob(model=str(tmp_path / "lm/model"), blocks=str(tmp_path / "foreign")))
    with pytest.raises(FormatError, match="not a language model"):
        load_model(str(folder / "tokenizer"), CPU)
    weights = tmp_path / "lm/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(DamageError, match="weights have changed"):
        load_model(str(tmp_path / "lm/model"), CPU)


def test_the_rate_rises_and_falls_to_a_tenth(tmp_path: Path) -> None:
    job = job_of(tmp_path, tmp_path, num_steps=100, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(job, 0) == pytest.approx(0.1) and learning_rate(job, 9) == 1.0
    assert learning_rate(job, 55) == pytest.approx(0.55, abs=0.01)
    assert learning_rate(job, 99) == pytest.approx(0.1, abs=0.01) and math.isfinite(learning_rate(job, 1000))


@pytest.mark.long
def test_two_ranks_learn_what_one_does(folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        job = job_of(folder, tmp_path / str(workers), num_workers=workers, num_steps=6)
        subprocess.run(job.command(sys.executable), check=True)  # Ray starts once a process
        assert lm_train(job)["num_steps"] == 6, "already complete, nothing to do"
    one, two = (load_model(str(tmp_path / name / "model"), CPU).model.state_dict() for name in ("1", "2"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
