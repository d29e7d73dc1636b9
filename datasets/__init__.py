"""Data sets: readers of published layouts and of a lab's own recordings, and simulated subjects."""

if __name__ != "neuroattn.datasets":
    raise ImportError("import neuroattn.datasets; the top-level folder datasets/ is not a package of its own")

from neuroattn.datasets.algonauts import inspect_algonauts, load_algonauts, write_algonauts
from neuroattn.datasets.arrays import inspect_arrays, load_arrays, read_images
from neuroattn.datasets.eeg import Trials, load_eeg
from neuroattn.datasets.export import export_map
from neuroattn.datasets.folders import list_subjects
from neuroattn.datasets.gcog import make_gcog
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
from neuroattn.datasets.scanpath_books import load_book_covers, write_book_covers
from neuroattn.datasets.scanpath_coco import load_coco_search18, write_coco_search18
from neuroattn.datasets.scanpath_layouts import SCANPATH_LAYOUTS, load_scanpaths, write_scanpaths
from neuroattn.datasets.scanpath_objarr import load_objarr, write_objarr
from neuroattn.datasets.scanpath_osie import load_osie, write_osie
from neuroattn.datasets.scanpath_pysaliency import load_pysaliency, write_pysaliency
from neuroattn.datasets.scanpath_tables import load_events, load_multimatch, write_events, write_multimatch
from neuroattn.datasets.scanpath_visions import load_visions, write_visions
from neuroattn.datasets.scanpaths import ScanpathDataset
from neuroattn.datasets.scenes import ObjectScene, px_per_degree
from neuroattn.datasets.search_arrays import make_search_arrays
from neuroattn.datasets.simulated import make_nsd_like, simulate_sessions
from neuroattn.datasets.splits import Fold, split_stimuli
from neuroattn.datasets.surfaces import fsaverage5_mesh, to_surface

__all__ = [
    "SCANPATH_LAYOUTS",
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
    "load_book_covers",
    "load_coco_search18",
    "load_eeg",
    "load_events",
    "load_multimatch",
    "load_nsd",
    "load_objarr",
    "load_osie",
    "load_pysaliency",
    "load_scanpaths",
    "load_visions",
    "make_gcog",
    "make_nsd_like",
    "make_search_arrays",
    "px_per_degree",
    "read_images",
    "select_regions",
    "simulate_sessions",
    "split_stimuli",
    "to_surface",
    "write_algonauts",
    "write_book_covers",
    "write_coco_search18",
    "write_events",
    "write_multimatch",
    "write_nsd",
    "write_objarr",
    "write_osie",
    "write_pysaliency",
    "write_scanpaths",
    "write_visions",
]
