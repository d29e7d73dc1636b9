"""Data sets: readers of published layouts and of a lab's own recordings, and simulated subjects."""

if __name__ != "neuroattn.datasets":
    raise ImportError("import neuroattn.datasets; the top-level folder datasets/ is not a package of its own")

from neuroattn.datasets.algonauts import inspect_algonauts, load_algonauts, write_algonauts
from neuroattn.datasets.arrays import inspect_arrays, load_arrays, read_images
from neuroattn.datasets.eeg import Trials, load_eeg
from neuroattn.datasets.export import export_map
from neuroattn.datasets.folders import list_subjects
from neuroattn.datasets.nsd import inspect_nsd, load_nsd
from neuroattn.datasets.nsd_writer import write_nsd
from neuroattn.datasets.recording import (
    FileCheck,
    ImageFiles,
    Images,
    ImagesHdf5,
    Recording,
    Responses,
    Rows,
    content_ids,
)
from neuroattn.datasets.regions import add_regions, select_regions
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene, px_per_degree
from neuroattn.datasets.search_arrays import make_search_arrays
from neuroattn.datasets.simulated import make_nsd_like, simulate_sessions
from neuroattn.datasets.splits import Fold, split_stimuli
from neuroattn.datasets.surfaces import fsaverage5_mesh, to_surface

__all__ = [
    "FileCheck",
    "Fold",
    "ImageFiles",
    "Images",
    "ImagesHdf5",
    "ObjectScene",
    "Recording",
    "Responses",
    "Rows",
    "ScanpathDataset",
    "Trials",
    "add_regions",
    "content_ids",
    "export_map",
    "fsaverage5_mesh",
    "inspect_algonauts",
    "inspect_arrays",
    "inspect_nsd",
    "list_subjects",
    "load_algonauts",
    "load_arrays",
    "load_eeg",
    "load_nsd",
    "make_nsd_like",
    "make_search_arrays",
    "px_per_degree",
    "read_images",
    "select_regions",
    "simulate_sessions",
    "split_stimuli",
    "to_surface",
    "write_algonauts",
    "write_nsd",
]
