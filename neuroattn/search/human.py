"""Reaction times of people in the published experiments."""

from __future__ import annotations

import numpy as np
import xarray as xr

from neuroattn._checks import check_option

SOURCE = "read off published figures, no errors"

# Condition means in ms, hard condition first; from the works that each experiment follows, as Gupta et al. read them.
_RT: dict[str, tuple[str, tuple[int, ...], tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "curvature": (
        "Wolfe, Yee & Friedman-Hill 1992",
        (8, 16, 32),
        ((565.0, 640.0, 750.0), (510.0, 516.4, 529.2)),
    ),
    "lighting": (
        "Kleffner & Ramachandran 1992",
        (1, 6, 12),
        ((488.0, 674.67, 754.67), (426.67, 432.0, 472.0)),
    ),
    "intersection": (
        "Wolfe & DiMase 2003, points on regression lines",
        (3, 6, 9),
        ((829.0, 1117.0, 1405.0), (645.0, 780.0, 915.0)),
    ),
    "letters": (
        "Wolfe & DiMase 2003, points on regression lines",
        (3, 6, 9),
        ((573.0, 672.0, 771.0), (541.0, 583.0, 625.0)),
    ),
    "orientation": (
        "Wolfe, Friedman-Hill, Stewart & O'Connell 1992",
        (1, 4, 8, 12),
        ((431.58, 547.37, 552.63, 557.89), (414.74, 437.89, 441.05, 444.21)),
    ),
    "orientation_mixed": (
        "Wolfe, Friedman-Hill, Stewart & O'Connell 1992",
        (1, 4, 8, 12),
        ((526.32, 831.58, 1084.21, 1326.32), (431.58, 568.42, 633.68, 707.37)),
    ),
}


def human_rt(experiment: str) -> xr.DataArray:
    """Return people's mean reaction times in one of the published experiments.

    Parameters
    ----------
    experiment : str
        A name of :data:`neuroattn.search.experiments.EXPERIMENTS`.

    Returns
    -------
    DataArray, dims (role, set_size)
        Milliseconds in the hard and the easy condition: means read off published figures, or points on published
        regression lines, without errors [1]_. No raw reaction times are published; ``attrs`` says so and names the
        work.

    References
    ----------
    .. [1] Gupta, Zhang, Wu, Wolfe & Kreiman (2021). Visual search asymmetry: deep nets and humans share similar
       inherent biases. NeurIPS.

    Examples
    --------
    >>> rt = human_rt("letters")
    >>> rt.sel(role="hard").values, rt.attrs["source"]
    (array([573., 672., 771.]), 'read off published figures, no errors')
    >>> rt.polyfit("set_size", 1).polyfit_coefficients.sel(degree=1).values.round(3)
    array([33., 14.])
    """
    check_option("experiment", experiment, _RT)
    work, sizes, times = _RT[experiment]
    return xr.DataArray(
        np.array(times),
        dims=("role", "set_size"),
        coords={"role": ["hard", "easy"], "set_size": list(sizes)},
        name="rt",
        attrs={"units": "ms", "source": SOURCE, "work": work},
    )
