"""What a data folder holds."""

from __future__ import annotations

import re
from pathlib import Path

from neuroattn._checks import check_option

LAYOUTS = ("algonauts", "nsd")


def list_subjects(root: str | Path, layout: str) -> list[int]:
    """List the subjects of a data set in a folder.

    Parameters
    ----------
    root : str or Path
        Folder of the data set.
    layout : {"algonauts", "nsd"}
        Layout of :func:`load_algonauts` or :func:`load_nsd`.

    Returns
    -------
    list of int
        Numbers of the subjects that have at least a part of their files; empty if there are none.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "subj02" / "training_split").mkdir(parents=True)
    >>> list_subjects(folder, "algonauts"), list_subjects(folder, "nsd")
    ([2], [])
    """
    check_option("layout", layout, LAYOUTS)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} does not exist; expected the folder of a data set")
    places = {"algonauts": ("*/training_split", "*/roi_masks"), "nsd": ("nsddata_betas/ppdata/*/*/*",)}
    found = set()
    for pattern in places[layout]:
        for path in Path(root).glob(pattern):
            names = path.relative_to(root).parts
            match = re.fullmatch(r"subj(\d\d)", names[0] if layout == "algonauts" else names[2])
            if match and path.is_dir():
                found.add(int(match[1]))
    return sorted(found)
