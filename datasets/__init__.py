"""Data sets: readers of published layouts and of a lab's own recordings, and simulated subjects."""

if __name__ != "neuroattn.datasets":
    raise ImportError("import neuroattn.datasets; the top-level folder datasets/ is not a package of its own")

from neuroattn.datasets.recording import ImageFiles, Images, Recording, Responses, content_ids
from neuroattn.datasets.splits import Fold, split_stimuli

__all__ = ["Fold", "ImageFiles", "Images", "Recording", "Responses", "content_ids", "split_stimuli"]
