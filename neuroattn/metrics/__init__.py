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
from neuroattn.metrics.rsa import dissimilarities, rdm_noise_ceiling, rdm_similarity
from neuroattn.metrics.summaries import group_summary, paired_difference, roi_summary

__all__ = [
    "bootstrap_correlation",
    "combine_datasets",
    "cross_subject_ceiling",
    "dissimilarities",
    "group_summary",
    "noise_ceiling_from_ncsnr",
    "noise_ceiling_from_repeats",
    "paired_difference",
    "pearson_r",
    "permutation_correlation",
    "r2_over_ceiling",
    "r2_over_ceiling_algonauts",
    "rdm_noise_ceiling",
    "rdm_similarity",
    "roi_summary",
    "shuffled_correlation",
    "softmax_ensemble",
    "variance_partitioning",
]
