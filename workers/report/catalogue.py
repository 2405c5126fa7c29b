"""The metrics there are: what each is called, its unit, its direction and its bounds."""

from __future__ import annotations

from syllabary.workers.report.card import Metric

METRICS = (
    Metric(name="pesq_wb", label="PESQ-WB", unit="MOS-LQO", direction="higher", low=1.0, high=4.64,
           description="Perceived quality against the original, ITU-T P.862.2, of package pesq."),
    Metric(name="stoi", label="STOI", unit="", direction="higher", low=0.0, high=1.0,
           description="Short-time objective intelligibility (Taal et al. 2011), of package pystoi."),
    Metric(name="estoi", label="ESTOI", unit="", direction="higher", low=0.0, high=1.0,
           description="Extended STOI (Jensen and Taal 2016): the better ruler where noise is not stationary."),
    Metric(name="si_sdr", label="SI-SDR", unit="dB", direction="higher",
           description="Scale-invariant signal-to-distortion ratio. Means little for vocoders: they keep no phase."),
    Metric(name="mel_distance", label="Mel distance", unit="dB", direction="lower", low=0.0,
           description="Mean absolute difference of 80-band log-mel spectra, 25 ms windows every 10 ms, floor -100 dB. "
                       "Says little of narrowband codecs, whose upper half is missing."),
    Metric(name="distill_mos", label="DistillMOS", unit="MOS", direction="higher", low=1.0, high=5.0,
           description="Naturalness without a reference (Stahl and Gamper 2025), segments of 7.68 s at most half "
                       "overlapped. Misleads alone: it likes clean sound, whatever it says."),
    Metric(name="speaker_similarity", label="Speaker similarity", unit="cosine", direction="higher", low=0.0, high=1.0,
           description="Cosine of GE2E voice embeddings with Resemblyzer's weights, silence not trimmed. Two clips of "
                       "one speaker score about 0.9, of two speakers about 0.6."),
    Metric(name="f0_rmse", label="F0 RMSE", unit="cents", direction="lower", low=0.0,
           description="Root mean square pitch error over frames voiced in both (Praat autocorrelation, 10 ms)."),
    Metric(name="voicing_error", label="Voicing error", unit="%", direction="lower", low=0.0, high=100.0,
           description="Frames that are voiced in one and not in the other (Praat autocorrelation, 10 ms)."),
    Metric(name="wer", label="WER", unit="%", direction="lower", low=0.0,
           description="Word errors of a recogniser (moonshine tiny-en) against the transcript, weighted by words."),
    Metric(name="cer", label="CER", unit="%", direction="lower", low=0.0,
           description="Character errors of the same recogniser against the transcript, weighted by characters."),
    Metric(name="wer_self", label="WER against itself", unit="%", direction="lower", low=0.0,
           description="Word errors against what the recogniser hears in the original: a pseudo-reference, for speech "
                       "without transcripts. The original has 0 by construction."),
    Metric(name="cer_self", label="CER against itself", unit="%", direction="lower", low=0.0,
           description="Character errors against what the recogniser hears in the original: a pseudo-reference."),
    Metric(name="wavlm_similarity", label="WavLM similarity", unit="cosine", direction="higher", low=0.0, high=1.0,
           description="Mean cosine of WavLM's last hidden states, frame by frame; needs --peer NAME=DIR of one."),
)  # fmt: skip
