"""The report card of a tokenizer: everything ``syllabary evaluate`` finds out, as one value. Free of torch and ray.

What lies below OUT:

    output.json          whose report this is: tokenizer digests, shards, options
    utterances/N.json    what one utterance gave; its presence is its commit
    scores.parquet       one row per utterance, system and metric (:data:`SCORES_COLUMNS`)
    ledger.parquet       the same rows and those without a value, each with its status and reason
    tokens.parquet       the evaluated utterances as a real archive part: what "bytes stored" means
    samples/N-SYSTEM.flac  sound to play: typical utterances and the worst ones, as every system gives them
    cost.json            time and memory, measured once on the machine that finished the report
    report.json          this value
    report.html          the page

Equal inputs give equal bytes everywhere but in ``cost.json`` and what repeats it: times are measured, not computed.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from syllabary.shards import store
from syllabary.shards.errors import FormatError, NotFoundError, VersionError, first_fault
from syllabary.shards.store import Folder

FORMAT_VERSION = 1
REPORT, PAGE = "report.json", "report.html"
SCORES, LEDGER, TOKENS, COST = "scores.parquet", "ledger.parquet", "tokens.parquet", "cost.json"
UTTERANCES, SAMPLES = "utterances", "samples"
SCORES_COLUMNS = ("utterance_id", "speaker", "split", "system", "metric", "value", "weight")


class Part(BaseModel):
    """Base of the parts of a card: frozen, exact, without NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bitrates(Part):
    """bit/s of a system; None where the notion does not apply (the original) or was not measured.

    ``payload``: information at most. ``nominal``: as its format counts. ``entropy``: of what it sent, by the best
    lossless model measured. ``stored``: what lies on the disk, container excluded for real codecs.
    """

    payload: float | None = None
    nominal: float | None = None
    entropy: float | None = None
    stored: float | None = None


class System(Part):
    """One thing that was scored. ``name`` is a key (``codec2_700c``), ``label`` is for people."""

    name: str
    label: str
    kind: Literal["ours", "baseline", "ceiling", "floor"]
    description: str
    bitrates: Bitrates = Bitrates()


class Metric(Part):
    """One ruler. ``low`` and ``high`` bound its plotted axis where the ruler itself is bounded."""

    name: str
    label: str
    unit: str
    direction: Literal["higher", "lower"]
    description: str
    low: float | None = None
    high: float | None = None


class Score(Part):
    """Mean of a metric over utterances, weighted (WER by words), and its interval.

    ``low`` and ``high`` are the 95 % bootstrap interval over speakers; None with fewer than two speakers.
    """

    system: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    num_utterances: int
    num_speakers: int


class Difference(Part):
    """Paired difference ``system`` − ``baseline`` (ours minus a baseline) over the utterances that both have.

    ``exceeds`` is whether the interval excludes zero; ``better`` whether the mean difference favours ``system``.
    """

    system: str
    baseline: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    num_utterances: int
    exceeds: bool
    better: bool


class WorstCase(Part):
    """An utterance among the worst of ours by one metric; ``rank`` 1 is the worst. ``sample`` is its playable one."""

    metric: str
    rank: int
    utterance_id: str
    speaker: str
    value: float
    transcript: str | None = None
    sample: int | None = None


class Failure(Part):
    """A metric or a system that failed on one utterance; the others went on."""

    utterance_id: str
    system: str
    metric: str
    reason: str


class AbsentMetric(Part):
    """A metric that nothing has a value of, and why: "no transcripts", say."""

    metric: str
    reason: str


class Corpus(Part):
    """What was evaluated on. ``num_held_out`` is how many utterances the splits hold; ``limit`` may have cut them."""

    shards: str
    splits: tuple[str, ...]
    num_utterances: int
    num_held_out: int
    num_speakers: int
    duration_s: float
    num_transcripts: int


class PositionUse(Part):
    """Use of one token position: ids that exist and that occur, entropy in bits per token, perplexity 2 ** entropy."""

    position: int
    num_ids: int
    num_used: int
    entropy_bits: float
    perplexity: float


class Rate(Part):
    """Rates in bit/s of speech, and the use of the code over the evaluated utterances.

    Attributes:
        payload: log2(levels) bits per dim.
        nominal: log2(vocabulary) bits per token.
        as_uint16: 16 bits per token.
        token_entropy: zeroth order for each token position. With fewer frames than ids it is biased low.
        digit_entropy: zeroth order for each dim: few symbols, hardly biased.
        digit_entropy_given_place: the same once the place of a frame is known, over utterances cut to one length: 0
            for tokens that only encode the time, though they use every level. None with too few utterances.
        between_clips: share of the digits' variance that lies between those utterances at one place; None likewise.
        rank_given_place: of how many dims the latents' variance between those utterances at one place is: that share,
            times the effective rank of what is left without each place's mean; None likewise.
        context_entropy: the code length of an adaptive model that has seen only what came before: a rate that a coder
            really reaches.
        language_model: bits of the language model that was given to the evaluation; None when none was. It is a figure
            of tokens and model together, so comparable only between reports of one model's training.
        stored: the token columns' bytes of a real archive part, in bit/s; ``stored_all`` with all other columns.
        num_frames: frames counted.
        level_share: share of each level over all dims.
        level_perplexity: 2 ** mean entropy of a dim; at most the number of levels.
        dead_dims: dims that take only one level.
        num_dims: dims of a frame.
        effective_rank: of the latents, of at most ``num_dims``; None when not measured.
        positions: use of each token position.
    """

    payload: float
    nominal: float
    as_uint16: float
    token_entropy: float
    digit_entropy: float
    context_entropy: float
    stored: float
    stored_all: float
    num_frames: int
    level_share: tuple[float, ...]
    level_perplexity: float
    dead_dims: int
    num_dims: int
    effective_rank: float | None
    positions: tuple[PositionUse, ...]
    digit_entropy_given_place: float | None = None
    between_clips: float | None = None
    rank_given_place: float | None = None
    language_model: float | None = None


class Agreement(Part):
    """Share of tokens, and of digits, that stay equal when the input is disturbed by ``value`` ``unit``."""

    disturbance: Literal["shift", "gain", "noise", "band_limit"]
    value: float
    unit: str
    tokens: float
    digits: float
    num_utterances: int


class Resilience(Part):
    """Quality of ours when a share of the tokens is replaced by random others, repaired or not."""

    token_error_rate: float
    repair: bool
    metric: str
    mean: float
    num_utterances: int


class CertificateCheck(Part):
    """One way to encode or decode the same utterances; ``num_mismatches`` of ``num_compared`` values must be 0."""

    name: str
    description: str
    num_compared: int
    num_mismatches: int


class SeamCheck(Part):
    """A recording longer than a window: does it sound, and tokenize, as its parts do?

    Attributes:
        duration_s: of the joined recording.
        num_seams: window borders inside it.
        flux_ratio: spectral flux at the borders over its median elsewhere, the mean over borders; near 1 is no seam.
        worst_flux_ratio: the largest over borders.
        num_mismatches: tokens of the first window that differ from those of the same speech alone; must be 0.
    """

    duration_s: float
    num_seams: int
    flux_ratio: float
    worst_flux_ratio: float
    num_mismatches: int


class Behaviour(Part):
    """The behaviour of the tokens. ``repair`` says in words what repairing means."""

    agreement: tuple[Agreement, ...]
    resilience: tuple[Resilience, ...]
    repair: str
    certificate: tuple[CertificateCheck, ...]
    seams: SeamCheck | None


class Machine(Part):
    """What the cost was measured on; ``accelerator`` is None where the processor alone computed."""

    processor: str
    num_cores: int
    memory_gb: float
    accelerator: str | None
    system: str
    torch: str


class CostPoint(Part):
    """Encode or decode at one batch size. ``real_time_factor`` is wall seconds an audio second: below 1 is faster."""

    direction: Literal["encode", "decode"]
    batch_size: int
    num_threads: int
    real_time_factor: float
    cpu_s_per_audio_s: float
    peak_memory_mb: float


class ScoringCost(Part):
    """CPU-seconds that a metric (or a system, or "read") takes for one minute of speech."""

    name: str
    cpu_s_per_minute: float


class Cost(Part):
    """Time and memory, measured once."""

    machine: Machine
    points: tuple[CostPoint, ...]
    scoring: tuple[ScoringCost, ...]
    scored_s: float


class Sound(Part):
    """One playable file, ``path`` relative to OUT."""

    system: str
    path: str
    duration_s: float
    sample_rate: int


class Sample(Part):
    """One utterance to listen to, as the original and through every system (``sounds``).

    ``salience`` holds one value 0..1 per frame, ``frame_s`` seconds each. ``scores`` repeats its rows of the scores:
    system to metric to value. ``reason`` says why it is here: "typical", or the metric it is among the worst of.
    """

    number: int
    utterance_id: str
    speaker: str
    transcript: str | None
    duration_s: float
    reason: str
    sounds: tuple[Sound, ...]
    salience: tuple[float, ...]
    frame_s: float
    scores: dict[str, dict[str, float]]


class Provenance(Part):
    """What the report was made of and how: digests, options, resolved model configuration, package versions."""

    tokenizer: str
    encoder_digest: str
    decoder_digest: str
    shards_digest: str
    options: dict[str, Any]
    model: dict[str, Any]
    packages: dict[str, str]


class ReportCard(Part):
    """The whole report. ``notes`` are sentences for the reader: what is missing, what limits the figures."""

    format_version: int = FORMAT_VERSION
    title: str
    corpus: Corpus
    systems: tuple[System, ...]
    metrics: tuple[Metric, ...]
    absent: tuple[AbsentMetric, ...]
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    worst: tuple[WorstCase, ...]
    failures: tuple[Failure, ...]
    rate: Rate
    behaviour: Behaviour | None
    cost: Cost | None
    samples: tuple[Sample, ...]
    provenance: Provenance
    notes: tuple[str, ...]

    def score(self, system: str, metric: str) -> Score | None:
        """The summary of one system by one metric, or None."""
        return next((s for s in self.scores if (s.system, s.metric) == (system, metric)), None)


def publish_card(out: str, card: ReportCard) -> None:
    """Write ``report.json``."""
    Folder(out).publish_json(REPORT, card.model_dump(mode="json"))


def read_card(out: str) -> ReportCard:
    """The report at ``out``.

    Raises:
        NotFoundError: there is none.
        VersionError: one of a format that this code does not know.
        FormatError: a damaged one.
    """
    uri = store.join(out, REPORT)
    try:
        values = store.read_json(uri)
    except NotFoundError as error:
        fix = "give the --out of `syllabary evaluate`, once it is complete"
        raise NotFoundError(
            "no report of an evaluation", value=out, expected=f"a folder with {REPORT}", fix=fix
        ) from error
    if values.get("format_version") != FORMAT_VERSION:
        version = values.get("format_version")
        raise VersionError(f"unknown report version in {uri}", value=version, expected=str(FORMAT_VERSION))
    try:
        return ReportCard.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise FormatError(f"damaged report at {first_fault(error).where}", value=uri, fix="evaluate again") from error
