"""Studies and reports built from the models."""

if __name__ != "neuroattn.analyses":
    raise ImportError("import neuroattn.analyses; the top-level folder analyses/ is not a package of its own")

import importlib
from typing import TYPE_CHECKING, Any

from neuroattn.analyses.demo import Demo, load_demo
from neuroattn.analyses.encoder_study import run_encoder_study
from neuroattn.analyses.fitted import evaluate_encoder, map_attention
from neuroattn.analyses.report import seed_agreement, write_encoder_report
from neuroattn.analyses.representations import representational_similarity
from neuroattn.analyses.scanpath_figures import (
    plot_fixation_density,
    plot_found_curve,
    plot_scanpath,
    plot_transitions,
)
from neuroattn.analyses.scanpath_report import write_scanpath_report
from neuroattn.analyses.scanpath_runs import evaluate_scanpath_models, fit_scanpath_model
from neuroattn.analyses.scanpath_study import (
    compare_scanpath_models,
    cut_at_target,
    free_viewing_consistency,
    scanpath_table,
)
from neuroattn.analyses.token_masking import masking_effect
from neuroattn.analyses.workspace import inspect_workspace, lesion_concepts

if TYPE_CHECKING:
    from neuroattn.analyses.attention_layers import compare_attention_layers
    from neuroattn.analyses.attention_study import compare_attentions
    from neuroattn.analyses.contrast import contrastive_maps, plot_map_scores, score_maps
    from neuroattn.analyses.decoder import Decoder, read_trials
    from neuroattn.analyses.decoding import Condition, decode_trials
    from neuroattn.analyses.decoding_report import write_decoding_report
    from neuroattn.analyses.decoding_study import decode_recording
    from neuroattn.analyses.natural_images import natural_search
    from neuroattn.analyses.regions import plot_regions, summarise_regions
    from neuroattn.analyses.saliency import map_saliency, plot_map_saliency, saliency_maps
    from neuroattn.analyses.search_figures import plot_asymmetry, plot_displays, plot_search_times
    from neuroattn.analyses.search_run import plot_search, search_image, study_asymmetries
    from neuroattn.analyses.search_study import search_asymmetry, search_controls
    from neuroattn.analyses.variance import partition_variance, plot_variance

# Encoders are studied without loading braindecode, nor search; a module that is a command is not loaded before it runs.
_LAZY = {
    "compare_attention_layers": "attention_layers",
    "compare_attentions": "attention_study",
    "Condition": "decoding",
    "contrastive_maps": "contrast",
    "decode_recording": "decoding_study",
    "decode_trials": "decoding",
    "Decoder": "decoder",
    "map_saliency": "saliency",
    "natural_search": "natural_images",
    "partition_variance": "variance",
    "plot_asymmetry": "search_figures",
    "plot_displays": "search_figures",
    "plot_map_saliency": "saliency",
    "plot_map_scores": "contrast",
    "plot_regions": "regions",
    "plot_search": "search_run",
    "plot_search_times": "search_figures",
    "plot_variance": "variance",
    "read_trials": "decoder",
    "saliency_maps": "saliency",
    "score_maps": "contrast",
    "search_asymmetry": "search_study",
    "search_controls": "search_study",
    "search_image": "search_run",
    "study_asymmetries": "search_run",
    "summarise_regions": "regions",
    "write_decoding_report": "decoding_report",
}

__all__ = [
    "Condition",
    "Decoder",
    "Demo",
    "compare_attention_layers",
    "compare_attentions",
    "compare_scanpath_models",
    "contrastive_maps",
    "cut_at_target",
    "decode_recording",
    "decode_trials",
    "evaluate_encoder",
    "evaluate_scanpath_models",
    "fit_scanpath_model",
    "free_viewing_consistency",
    "inspect_workspace",
    "lesion_concepts",
    "load_demo",
    "map_attention",
    "map_saliency",
    "masking_effect",
    "natural_search",
    "partition_variance",
    "plot_asymmetry",
    "plot_displays",
    "plot_fixation_density",
    "plot_found_curve",
    "plot_map_saliency",
    "plot_map_scores",
    "plot_regions",
    "plot_scanpath",
    "plot_search",
    "plot_search_times",
    "plot_transitions",
    "plot_variance",
    "read_trials",
    "representational_similarity",
    "run_encoder_study",
    "saliency_maps",
    "scanpath_table",
    "score_maps",
    "search_asymmetry",
    "search_controls",
    "search_image",
    "seed_agreement",
    "study_asymmetries",
    "summarise_regions",
    "write_decoding_report",
    "write_encoder_report",
    "write_scanpath_report",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"neuroattn.analyses.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
