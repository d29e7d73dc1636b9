"""Data sets: readers of published layouts and of a lab's own recordings, and simulated subjects."""

if __name__ != "neuroattn.datasets":
    raise ImportError("import neuroattn.datasets; the top-level folder datasets/ is not a package of its own")

from neuroattn.datasets.algonauts import inspect_algonauts, load_algonauts, write_algonauts
from neuroattn.datasets.arrays import inspect_arrays, load_arrays
from neuroattn.datasets.eeg import Trials, load_eeg
from neuroattn.datasets.export import export_map
from neuroattn.datasets.recording import (
    FileCheck,
    ImageFiles,
    Images,
    Recording,
    Responses,
    Rows,
    content_ids,
)
from neuroattn.datasets.simulated import make_nsd_like
from neuroattn.datasets.splits import Fold, split_stimuli
from neuroattn.datasets.surfaces import fsaverage5_mesh, to_surface

__all__ = [
    "FileCheck",
    "Fold",
    "ImageFiles",
    "Images",
    "Recording",
    "Responses",
    "Rows",
    "Trials",
    "content_ids",
    "export_map",
    "fsaverage5_mesh",
    "inspect_algonauts",
    "inspect_arrays",
    "load_algonauts",
    "load_arrays",
    "load_eeg",
    "make_nsd_like",
    "split_stimuli",
    "to_surface",
    "write_algonauts",
]
