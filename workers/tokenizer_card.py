"""The model card that stands in every tokenizer directory as README.md."""

from __future__ import annotations

from model.config import ModelConfig
from workers.rates import rates_of

_CARD = """# Syllabary tokenizer: {name}

Speech to tokens and back. Load it with `Tokenizer.load("<this directory>")` (module `workers.tokenizer`).

| | |
| --- | --- |
| sample rate | {sample_rate:,} Hz mono |
| hop length | {hop_length:,} samples |
| frames | {frame_rate:g} a second |
| tokens | {num_groups} a frame, {tokens_per_s:g} a second, vocabulary {vocabulary:,} |
| bit rate | {payload:g} bit/s payload, {nominal:g} nominal, {stored:g} as uint16 |
| levels, group size, digit order | {levels}, {group_size}, {digit_order} |
| longest clip encoded whole | {window_s:g} s |
| precision of the encoder | {precision} |
| encoder digest (fixes the tokens) | `{encoder_digest}` |
| decoder digest (fixes the sound) | `{decoder_digest}` |

Tokens of one utterance do not depend on its batch, on padding or on the number of threads or workers. They are
promised bit for bit on one kind of processor; on another, a frame whose margin is near zero may differ.

`config.json` holds the resolved recipe. How well the tokenizer keeps speech intelligible depends on its training:
measure it on speech of your own before relying on it.
"""


def model_card(config: ModelConfig, name: str, encoder_digest: str, decoder_digest: str) -> str:
    """Markdown that says what the tokenizer is, without anything that changes from run to run."""
    rates = rates_of(config)
    return _CARD.format(
        name=name,
        sample_rate=config.encoder.sample_rate,
        hop_length=config.framing.hop_length,
        frame_rate=float(config.framing.frame_rate),
        num_groups=rates.num_groups,
        tokens_per_s=rates.tokens_per_s,
        vocabulary=rates.vocabulary,
        payload=rates.payload_bits_per_s,
        nominal=rates.nominal_bits_per_s,
        stored=rates.stored_bits_per_s,
        levels=config.fsq.levels,
        group_size=config.fsq.group_size,
        digit_order=config.fsq.digit_order,
        window_s=config.framing.window_samples / config.encoder.sample_rate,
        precision=config.encoder.precision,
        encoder_digest=encoder_digest,
        decoder_digest=decoder_digest,
    )
