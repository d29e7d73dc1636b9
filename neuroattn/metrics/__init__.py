"""Scores and statistics as pure functions on arrays."""

from neuroattn.metrics.correlation import bootstrap_correlation, pearson_r, shuffled_correlation
from neuroattn.metrics.noise_ceiling import (
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    r2_over_ceiling,
    r2_over_ceiling_algonauts,
)
from neuroattn.metrics.summaries import paired_difference, roi_summary

__all__ = [
    "bootstrap_correlation",
    "noise_ceiling_from_ncsnr",
    "noise_ceiling_from_repeats",
    "paired_difference",
    "pearson_r",
    "r2_over_ceiling",
    "r2_over_ceiling_algonauts",
    "roi_summary",
    "shuffled_correlation",
]
