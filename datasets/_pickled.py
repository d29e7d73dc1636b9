"""Objects of arrays that other software pickles: read without running anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from neuroattn._files import reason

# All that a pickled numpy array refers to; numpy 1 and 2 name the module differently.
_PICKLED_ARRAY = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype} | {
    (f"numpy.{core}.multiarray", name): value
    for core in ("core", "_core")
    for name, value in (
        ("_reconstruct", np.empty(0).__reduce__()[0]),
        ("scalar", np.int64(0).__reduce__()[0]),
    )
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays of plain objects; every other global is refused, so nothing can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED_ARRAY:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _PICKLED_ARRAY[module, name]


def read_pickled(path: Path) -> Any:
    """Read what ``np.save`` pickled into an npy file of one object; ValueError for what could run."""
    try:
        with path.open("rb") as file:
            readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
            shape, _, dtype = readers[npy_format.read_magic(file)](file)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"it holds {dtype} of shape {shape}")
            return _ArrayUnpickler(file).load().item()
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise ValueError(reason(error)) from None
