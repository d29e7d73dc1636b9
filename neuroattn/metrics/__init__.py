"""Scores and statistics as pure functions on arrays."""

from neuroattn.metrics.alignment import Simplification, multimatch, multimatch_pairs
from neuroattn.metrics.consistency import (
    crossed_bootstrap,
    inter_observer,
    length_matched,
    map_consistency,
    same_observer,
)
from neuroattn.metrics.correlation import (
    bootstrap_correlation,
    pearson_r,
    permutation_correlation,
    shuffled_correlation,
)
from neuroattn.metrics.fixation_maps import (
    auc,
    bits_per_fixation,
    cc,
    fixation_map,
    information_gain,
    nss,
    sim,
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
from neuroattn.metrics.search_asymmetry import (
    asymmetry_index,
    asymmetry_summary,
    search_slopes,
    sign_test,
    slope_asymmetry,
)
from neuroattn.metrics.search_behaviour import (
    behaviour_delta,
    behaviour_vector,
    found_curve,
    probability_mismatch,
    saccades_to_target,
    scanpath_ratio,
)
from neuroattn.metrics.sequences import edit_distance, grid_edit_distance, scanmatch, sequence_score
from neuroattn.metrics.summaries import group_summary, paired_difference, roi_summary
from neuroattn.metrics.time_delay import stde, tde

__all__ = [
    "Simplification",
    "asymmetry_index",
    "asymmetry_summary",
    "auc",
    "behaviour_delta",
    "behaviour_vector",
    "bits_per_fixation",
    "bootstrap_correlation",
    "cc",
    "combine_datasets",
    "cross_subject_ceiling",
    "crossed_bootstrap",
    "dissimilarities",
    "edit_distance",
    "fixation_map",
    "found_curve",
    "grid_edit_distance",
    "group_summary",
    "information_gain",
    "inter_observer",
    "length_matched",
    "map_consistency",
    "multimatch",
    "multimatch_pairs",
    "noise_ceiling_from_ncsnr",
    "noise_ceiling_from_repeats",
    "nss",
    "paired_difference",
    "pearson_r",
    "permutation_correlation",
    "probability_mismatch",
    "r2_over_ceiling",
    "r2_over_ceiling_algonauts",
    "rdm_noise_ceiling",
    "rdm_similarity",
    "roi_summary",
    "saccades_to_target",
    "same_observer",
    "scanmatch",
    "scanpath_ratio",
    "search_slopes",
    "sequence_score",
    "shuffled_correlation",
    "sign_test",
    "sim",
    "slope_asymmetry",
    "softmax_ensemble",
    "stde",
    "tde",
    "variance_partitioning",
]
