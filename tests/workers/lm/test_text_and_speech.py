"""Text beside speech: the loss is over what may stand there, figures tell the two apart, and samples speak."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from tokenizers import Tokenizer as Words
from tokenizers import models, pre_tokenizers

from syllabary.shards.dataset import INDEX_SCHEMA
from syllabary.shards.errors import InputError
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import LmEvalJob, LmSampleJob, LmTrainJob, PackJob
from syllabary.workers.lm.blocks_data import BlockSource, Vocabulary
from syllabary.workers.lm.directory import load_model
from syllabary.workers.lm.evaluate import held_out_nats, lm_eval
from syllabary.workers.lm.likelihood import document_batches, require_encoder
from syllabary.workers.lm.sample import lm_sample, sample_tokens
from syllabary.workers.lm.speech_lm import LmLoss, label_nats, make_model
from syllabary.workers.lm.train import train_lm
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.archive_corpus import make_part, make_tokenizer, utterance_rows

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
NUM_WORDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of each order, of an archive in which every utterance has a text of two words."""
    folder = tmp_path_factory.mktemp("told")
    words = Words(models.WordLevel({f"w{i}": i for i in range(NUM_WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    form = archive_format(Tokenizer.load(make_tokenizer(str(folder / "tokenizer")), decoder=False))
    form.claim(str(folder / "archive"))
    for seed, shard in enumerate(("train-000000", "valid-000000")):
        rows = [row | {"text": f"w{1 + i % 2} w3"} for i, row in enumerate(utterance_rows(shard, seed, 16))]
        make_part(str(folder / "archive"), pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), form, shard, seed, 16)
    for order in ("both", "text_to_speech"):
        pack(PackJob(archive=str(folder / "archive"), out=str(folder / order), block_size=192, interleave=order,
                     text_tokenizer=str(folder / "tokenizer.json"), document="utterance"))  # fmt: skip
    return folder


def trained(folder: Path, out: Path, order: str) -> str:
    job = LmTrainJob(blocks=str(folder / order), out=str(out), num_steps=2, batch_size=2, warmup_steps=1, **SIZES)
    train_lm(job, str(out), CPU, 0, 1, lambda _: None)
    return str(out / "model")


def test_the_loss_is_cross_entropy_over_the_ids_that_may_stand_there(folder: Path) -> None:
    vocabulary = Vocabulary.of_blocks(str(folder / "both"))
    batch = BlockSource(str(folder / "both"), "train", 0).batch(0, 2, CPU)
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 192, 8), torch.randn(vocabulary["vocabulary_size"], 8)
    ids = torch.arange(len(head))
    sizes = torch.tensor(vocabulary.packing.position_sizes)[batch["place"]][..., None]
    possible = (ids >= NUM_WORDS) & (ids - NUM_WORDS < sizes)
    others = (ids < NUM_WORDS) | torch.isin(
        ids, torch.tensor([vocabulary[n] for n in ("gap", "end", "speech", "text")])
    )
    possible |= (batch["place"] == 0)[..., None] & others
    dense = (hidden @ head.T).masked_fill(~possible, -torch.inf)
    expected = torch.nn.functional.cross_entropy(dense.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    found = label_nats(hidden, batch["labels"], batch["place"], head, vocabulary)
    assert found.sum() == pytest.approx(float(expected), rel=1e-5) and len(found) == int((batch["labels"] >= 0).sum())
    assert int((batch["labels"] == vocabulary["text"]).sum()) and int((batch["labels"] == vocabulary["speech"]).sum())


def test_speech_and_text_are_told_apart_and_add_up(folder: Path, tmp_path: Path) -> None:
    model = trained(folder, tmp_path, "both")
    found = lm_eval(LmEvalJob(model=model, blocks=str(folder / "both")))
    loaded = load_model(model, CPU)
    source = BlockSource(str(folder / "both"), "valid", 0)
    nats, num_labels = held_out_nats(LmLoss(loaded.model, loaded.vocabulary), source, len(source), 8, CPU)
    assert found["num_labels"] + found["num_text_labels"] == num_labels
    parts = found["num_labels"] * found["bits_per_token"] + found["num_text_labels"] * found["bits_per_text_id"]
    assert parts == pytest.approx(nats / math.log(2), rel=1e-3)
    assert found["bits_per_s"] == pytest.approx(47.5 * found["bits_per_token"], rel=1e-3)


def test_samples_begin_with_speech_and_see_what_training_saw(folder: Path, tmp_path: Path) -> None:
    model = trained(folder, tmp_path / "lm", "both")
    job = LmSampleJob(model=model, tokenizer=str(folder / "tokenizer"), out=str(tmp_path / "out"), num_samples=1,
                      duration_s=1.0)  # fmt: skip
    sound, _ = soundfile.read(tmp_path / "out" / lm_sample(job)["files"][0])
    assert np.isfinite(sound).all()
    loaded = load_model(model, CPU)
    torch.manual_seed(0)
    tokens = sample_tokens(loaded.model, loaded.vocabulary, 3, 1.0, 1.0)
    (batch,) = document_batches(tokens, loaded.vocabulary, CPU)
    assert batch["labels"][0, 0] == -100, "what stands before the speech is given"
    with torch.no_grad():
        hidden = loaded.model.hidden(*(batch[n] for n in ("input_ids", "position_ids", "place", "document_ids")))
        logits = loaded.model(input_ids=batch["input_ids"]).logits
    assert torch.allclose(loaded.model.lm_head(hidden), logits, atol=1e-4)


def test_a_model_that_speaks_only_after_a_text_says_so(folder: Path, tmp_path: Path) -> None:
    model = trained(folder, tmp_path / "lm", "text_to_speech")
    job = LmSampleJob(model=model, tokenizer=str(folder / "tokenizer"), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match="speaks only after a text"):
        lm_sample(job)
    loaded = load_model(model, CPU)
    with pytest.raises(InputError, match="of speech that follows its text"):
        require_encoder(loaded, str(loaded.vocabulary.metadata["encoder_digest"]))
    assert make_model(loaded.vocabulary, **SIZES).num_before == 0
