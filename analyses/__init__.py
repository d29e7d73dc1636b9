"""Studies and reports built from the models."""

if __name__ != "neuroattn.analyses":
    raise ImportError("import neuroattn.analyses; the top-level folder analyses/ is not a package of its own")

from neuroattn.analyses.encoder_study import run_encoder_study
from neuroattn.analyses.fitted import evaluate_encoder, map_attention
from neuroattn.analyses.report import seed_agreement, write_encoder_report
from neuroattn.analyses.token_masking import masking_effect

__all__ = [
    "evaluate_encoder",
    "map_attention",
    "masking_effect",
    "run_encoder_study",
    "seed_agreement",
    "write_encoder_report",
]
