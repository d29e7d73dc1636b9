"""Scores and statistics as pure functions on arrays."""

from neuroattn.metrics.correlation import (
    bootstrap_correlation,
    pearson_r,
    permutation_correlation,
    shuffled_correlation,
)
from neuroattn.metrics.noise_ceiling import (
    cross_subject_ceiling,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    r2_over_ceiling,
    r2_over_ceiling_algonauts,
)
from neuroattn.metrics.paired import combine_datasets
from neuroattn.metrics.partitioning import softmax_ensemble, variance_partitioning
from neuroattn.metrics.search_asymmetry import (
    asymmetry_index,
    asymmetry_summary,
    search_slopes,
    sign_test,
    slope_asymmetry,
)
from neuroattn.metrics.summaries import group_summary, paired_difference, roi_summary

__all__ = [
    "asymmetry_index",
    "asymmetry_summary",
    "bootstrap_correlation",
    "combine_datasets",
    "cross_subject_ceiling",
    "group_summary",
    "noise_ceiling_from_ncsnr",
    "noise_ceiling_from_repeats",
    "paired_difference",
    "pearson_r",
    "permutation_correlation",
    "r2_over_ceiling",
    "r2_over_ceiling_algonauts",
    "roi_summary",
    "search_slopes",
    "shuffled_correlation",
    "sign_test",
    "slope_asymmetry",
    "softmax_ensemble",
    "variance_partitioning",
]
