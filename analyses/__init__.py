"""Studies and reports built from the models."""

if __name__ != "neuroattn.analyses":
    raise ImportError("import neuroattn.analyses; the top-level folder analyses/ is not a package of its own")

import importlib
from typing import TYPE_CHECKING, Any

from neuroattn.analyses.demo import Demo, load_demo
from neuroattn.analyses.encoder_report import seed_agreement, write_encoder_report
from neuroattn.analyses.encoder_study import run_encoder_study
from neuroattn.analyses.fitted import evaluate_encoder, map_attention
from neuroattn.analyses.maps_report import write_maps_report
from neuroattn.analyses.representations import representational_similarity
from neuroattn.analyses.scanpath_figures import (
    plot_fixation_density,
    plot_found_curve,
    plot_scanpath,
    plot_transitions,
)
from neuroattn.analyses.scanpath_report import write_samples_report, write_scanpath_report
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
    from neuroattn.analyses.backbone_attention import self_attention
    from neuroattn.analyses.contrast import contrastive_maps, plot_map_scores, score_maps
    from neuroattn.analyses.decoder import Decoder, read_trials
    from neuroattn.analyses.decoding import Condition, decode_trials
    from neuroattn.analyses.decoding_report import write_decoding_report
    from neuroattn.analyses.decoding_study import decode_recording
    from neuroattn.analyses.head_ablation import (
        ablate_heads,
        head_overlap,
        plot_head_ablation,
        plot_head_overlap,
    )
    from neuroattn.analyses.heads import plot_driven_heads, stimulus_driven_heads, target_driven_heads
    from neuroattn.analyses.natural_images import natural_search
    from neuroattn.analyses.patterns import attention_patterns, backbone_patterns, plot_patterns
    from neuroattn.analyses.position import backbone_position_bias, plot_position_bias, position_bias
    from neuroattn.analyses.regions import plot_regions, summarise_regions
    from neuroattn.analyses.saliency import map_saliency, plot_map_saliency, saliency_maps
    from neuroattn.analyses.scanpath_attention import (
        attention_shifts,
        decoder_profile,
        path_attention,
        plot_attention_shifts,
        plot_decoder_profile,
    )
    from neuroattn.analyses.search_figures import (
        plot_asymmetry,
        plot_displays,
        plot_search,
        plot_search_times,
    )
    from neuroattn.analyses.search_report import write_asymmetry_report
    from neuroattn.analyses.search_run import search_image, study_asymmetries
    from neuroattn.analyses.search_study import search_asymmetry, search_controls
    from neuroattn.analyses.sinks import (
        attention_sinks,
        backbone_sinks,
        plot_attention_sinks,
        plot_backbone_sinks,
    )
    from neuroattn.analyses.variance import partition_variance, plot_variance

# Encoders are studied without loading braindecode, nor search; a module that is a command is not loaded before it runs.
_LAZY = {
    "Condition": "decoding",
    "Decoder": "decoder",
    "ablate_heads": "head_ablation",
    "attention_patterns": "patterns",
    "attention_shifts": "scanpath_attention",
    "attention_sinks": "sinks",
    "backbone_patterns": "patterns",
    "backbone_position_bias": "position",
    "backbone_sinks": "sinks",
    "compare_attention_layers": "attention_layers",
    "compare_attentions": "attention_study",
    "contrastive_maps": "contrast",
    "decode_recording": "decoding_study",
    "decode_trials": "decoding",
    "decoder_profile": "scanpath_attention",
    "head_overlap": "head_ablation",
    "map_saliency": "saliency",
    "natural_search": "natural_images",
    "partition_variance": "variance",
    "path_attention": "scanpath_attention",
    "plot_asymmetry": "search_figures",
    "plot_attention_shifts": "scanpath_attention",
    "plot_attention_sinks": "sinks",
    "plot_backbone_sinks": "sinks",
    "plot_decoder_profile": "scanpath_attention",
    "plot_displays": "search_figures",
    "plot_driven_heads": "heads",
    "plot_head_ablation": "head_ablation",
    "plot_head_overlap": "head_ablation",
    "plot_map_saliency": "saliency",
    "plot_map_scores": "contrast",
    "plot_patterns": "patterns",
    "plot_position_bias": "position",
    "plot_regions": "regions",
    "plot_search": "search_figures",
    "plot_search_times": "search_figures",
    "plot_variance": "variance",
    "position_bias": "position",
    "read_trials": "decoder",
    "saliency_maps": "saliency",
    "score_maps": "contrast",
    "search_asymmetry": "search_study",
    "search_controls": "search_study",
    "search_image": "search_run",
    "self_attention": "backbone_attention",
    "stimulus_driven_heads": "heads",
    "study_asymmetries": "search_run",
    "summarise_regions": "regions",
    "target_driven_heads": "heads",
    "write_asymmetry_report": "search_report",
    "write_decoding_report": "decoding_report",
}

__all__ = [
    "Condition",
    "Decoder",
    "Demo",
    "ablate_heads",
    "attention_patterns",
    "attention_shifts",
    "attention_sinks",
    "backbone_patterns",
    "backbone_position_bias",
    "backbone_sinks",
    "compare_attention_layers",
    "compare_attentions",
    "compare_scanpath_models",
    "contrastive_maps",
    "cut_at_target",
    "decode_recording",
    "decode_trials",
    "decoder_profile",
    "evaluate_encoder",
    "evaluate_scanpath_models",
    "fit_scanpath_model",
    "free_viewing_consistency",
    "head_overlap",
    "inspect_workspace",
    "lesion_concepts",
    "load_demo",
    "map_attention",
    "map_saliency",
    "masking_effect",
    "natural_search",
    "partition_variance",
    "path_attention",
    "plot_asymmetry",
    "plot_attention_shifts",
    "plot_attention_sinks",
    "plot_backbone_sinks",
    "plot_decoder_profile",
    "plot_displays",
    "plot_driven_heads",
    "plot_fixation_density",
    "plot_found_curve",
    "plot_head_ablation",
    "plot_head_overlap",
    "plot_map_saliency",
    "plot_map_scores",
    "plot_patterns",
    "plot_position_bias",
    "plot_regions",
    "plot_scanpath",
    "plot_search",
    "plot_search_times",
    "plot_transitions",
    "plot_variance",
    "position_bias",
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
    "self_attention",
    "stimulus_driven_heads",
    "study_asymmetries",
    "summarise_regions",
    "target_driven_heads",
    "write_asymmetry_report",
    "write_decoding_report",
    "write_encoder_report",
    "write_maps_report",
    "write_samples_report",
    "write_scanpath_report",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"neuroattn.analyses.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
