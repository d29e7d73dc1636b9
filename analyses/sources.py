"""Where recordings come from, as small descriptions that any process can load."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroattn._checks import check_option
from neuroattn.analyses.fits import Progress
from neuroattn.datasets import (
    FileCheck,
    Recording,
    inspect_algonauts,
    inspect_arrays,
    inspect_nsd,
    load_algonauts,
    load_arrays,
    load_nsd,
    select_regions,
)

LAYOUTS = ("algonauts", "nsd", "arrays", "demo")
#: Published query sets: the regions that are kept, and what has a query.
READOUTS = {
    "rois": ("rois", "roi"),
    "streams": ("streams", "roi"),
    "visual": ("visual", "roi"),
    "bodies": ("bodies", "roi"),
    "faces": ("faces", "roi"),
    "places": ("places", "roi"),
    "words": ("words", "roi"),
    "hemisphere": (None, "hemisphere"),
    "unit": (None, "unit"),
}


@dataclass(frozen=True, kw_only=True)
class RecordingSource:
    """A recording on disk, or the simulated one of the demo; calling it loads the recording.

    Parameters
    ----------
    layout : {"algonauts", "nsd", "arrays", "demo"}
    root : Path, optional
        Folder of the data set ("algonauts", "nsd").
    subject : int, default 1
    options : dict
        Arguments of the loader.
    regions : str or sequence of str, optional
        See :func:`neuroattn.datasets.select_regions`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/x.npy", np.zeros((9, 4), "f4")), np.save(f"{folder}/y.npy", np.zeros((9, 2), "f4"))
    (None, None)
    >>> source = RecordingSource(layout="arrays", options={
    ...     "responses": f"{folder}/y.npy", "orientation": "stimulus-unit", "features": f"{folder}/x.npy"})
    >>> source().n_units
    2
    """

    layout: str
    root: Path | None = None
    subject: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    regions: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_option("layout", self.layout, LAYOUTS)
        if self.layout in ("algonauts", "nsd") and self.root is None:
            raise ValueError(
                f"root must name the folder of the data set for layout {self.layout!r}, got None"
            )

    def __call__(self, progress: Progress | None = None) -> Recording:
        """Load the recording.

        Parameters
        ----------
        progress : callable, optional
            Called with a stage, the steps done and the steps in all.

        Returns
        -------
        Recording
        """
        recording = self._load(progress)
        return recording if self.regions is None else select_regions(recording, self.regions)

    def _load(self, progress: Progress | None) -> Recording:
        if self.layout == "algonauts" and self.root is not None:
            return load_algonauts(self.root, self.subject)
        if self.layout == "nsd" and self.root is not None:
            step = None if progress is None else functools.partial(progress, "sessions")
            return load_nsd(self.root, self.subject, **self.options, progress=step)
        if self.layout == "arrays":
            return load_arrays(**self.options)
        from neuroattn.analyses.demo import make_demo_recording
        from neuroattn.encoding import load_backbone

        return make_demo_recording(load_backbone("demo"), **self.options, progress=progress)

    def inspect(self) -> list[FileCheck]:
        """Return what is found of the files that loading reads."""
        if self.layout == "algonauts" and self.root is not None:
            return inspect_algonauts(self.root, self.subject)
        if self.layout == "nsd" and self.root is not None:
            named = {name: self.options[name] for name in ("space", "betas") if name in self.options}
            return inspect_nsd(self.root, self.subject, **named)
        if self.layout == "arrays":
            known = inspect.signature(inspect_arrays).parameters
            return inspect_arrays(**{name: value for name, value in self.options.items() if name in known})
        return []
