"""Options that several verbs share: which recording, which network, and a file that holds them."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroattn._files import read_text, reading, shorten

if TYPE_CHECKING:
    from neuroattn.analyses.sources import RecordingSource

DATA, MODEL, TRAINING, STATISTICS, RUN = "Data", "Models", "Training", "Statistics", "Run"


def option(*names: str, help: str, panel: str, **more: Any) -> Any:
    """Return an option of one panel of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Demo = Annotated[bool, option("--demo", help="Simulate a subject: no files, no network.", panel=DATA)]
DataFolder = Annotated[
    Path | None,
    option("--data", help="Folder of the data set; file paths below are relative to it.", panel=DATA),
]
Layout = Annotated[str, option("--layout", help="algonauts, nsd or arrays.", panel=DATA)]
Space = Annotated[
    str | None, option("--space", help="fsaverage, func1pt8mm or func1mm (nsd) (fsaverage).", panel=DATA)
]
Betas = Annotated[str | None, option("--betas", help="Name of the version of the betas (nsd).", panel=DATA)]
Images = Annotated[
    str | None,
    option("--images", help="Folder, zip archive or FILE[:key] of images (arrays).", panel=DATA),
]
Features = Annotated[
    str | None, option("--features", help="FILE[:key] of features, instead of images (arrays).", panel=DATA)
]
ResponsesFile = Annotated[
    str | None, option("--responses", help="FILE[:key] of responses (arrays).", panel=DATA)
]
Orientation = Annotated[
    str | None, option("--orientation", help="stimulus-unit or unit-stimulus (arrays).", panel=DATA)
]
Rois = Annotated[
    str | None, option("--rois", help="FILE[:key] of region masks or labels (arrays).", panel=DATA)
]
Repeats = Annotated[
    str | None,
    option(
        "--repeats", help="FILE[:key] (unit, stimulus, repeat), NaN-padded: the ceiling (arrays).", panel=DATA
    ),
]
Trials = Annotated[
    str | None,
    option("--trials", help="FILE[:key] that names the stimulus of each trial (arrays).", panel=DATA),
]
StimulusIds = Annotated[
    str | None, option("--stimulus-ids", help="FILE[:key] of stimulus identities (arrays).", panel=DATA)
]
Mask = Annotated[Path | None, option("--mask", help="NIfTI mask of voxel responses (arrays).", panel=DATA)]
UnitKind = Annotated[str | None, option("--unit-kind", help="vertex, voxel or neuron (arrays).", panel=DATA)]
Dtype = Annotated[str, option("--dtype", help="float32 or float16, of stored features.", panel=MODEL)]
Regions = Annotated[
    str | None,
    option(
        "--regions", help="Only these regions and the units in them, e.g. FFA-1,EBA, or faces.", panel=DATA
    ),
]
Cache = Annotated[
    Path | None, option("--cache", help="Folder of stored features; the user's cache by default.", panel=RUN)
]
Device = Annotated[str, option("--device", help="auto, cpu, cuda ...", panel=RUN)]


def recording_sources(
    *,
    demo: bool,
    data: Path | None,
    layout: str,
    subjects: str,
    arrays: dict[str, Any],
    nsd: dict[str, Any],
    regions: str | tuple[str, ...] | None = None,
    cache: Path | None = None,
    seed: int = 0,
) -> dict[str, RecordingSource]:
    """Return the source of every subject by name; a study of one has one."""
    from neuroattn._checks import check_option
    from neuroattn.analyses.sources import RecordingSource

    check_option("layout", layout, ("algonauts", "nsd", "arrays"))
    if demo:
        numbers = parse_subjects(subjects, lambda: [1])
        return {
            f"subj{n:02d}": RecordingSource(
                layout="demo", subject=n, options={"cache": cache, "seed": seed + n - 1}, regions=regions
            )
            for n in numbers
        }
    if layout == "arrays":
        for name in ("responses", "orientation"):
            if arrays[name] is None:
                raise ValueError(f"--{name} must be given with --layout arrays")
        plain = ("orientation", "unit_kind")  # all others are files
        given = {k: v if v is None or k in plain else under(data, v) for k, v in arrays.items()}
        return {"recording": RecordingSource(layout=layout, options=given, regions=regions)}
    if data is None:
        what = "subj01, subj02, ..." if layout == "algonauts" else "nsddata and nsddata_betas"
        raise ValueError(f"--data must name the folder that holds {what}; or give --demo")
    options = {name: value for name, value in nsd.items() if value is not None} if layout == "nsd" else {}
    return {
        f"subj{n:02d}": RecordingSource(layout=layout, root=data, subject=n, options=options, regions=regions)
        for n in parse_subjects(subjects, lambda: find_subjects(data, layout))
    }


def parse_subjects(text: str, find: Callable[[], list[int]]) -> list[int]:
    """Return subject numbers: "1", "1,2,5", or all that are found.

    Examples
    --------
    >>> parse_subjects("2,1", lambda: [])
    [2, 1]
    """
    if text == "all":
        return find()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--subjects must be 'all' or numbers joined by commas, got {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def find_subjects(data: Path, layout: str) -> list[int]:
    """Return the subjects of a folder, at least one."""
    from neuroattn.datasets import list_subjects

    found = list_subjects(data, layout)
    if not found:
        raise FileNotFoundError(f"{data} holds no subject of the layout {layout!r}")
    return found


def parse_regions(text: str | None) -> str | tuple[str, ...] | None:
    """Return a published group of regions by its name, single regions as a tuple, or None.

    Examples
    --------
    >>> parse_regions("faces"), parse_regions("FFA-1,EBA")
    ('faces', ('FFA-1', 'EBA'))
    """
    from neuroattn.analyses.sources import READOUTS

    if text is None or text in {name for name, _ in READOUTS.values()}:
        return text
    return tuple(name.strip() for name in text.split(","))


def under(data: Path | None, spec: Any) -> str:
    """Return a path relative to the data folder, as text."""
    return str(spec if data is None else data / spec)


def layer_names(text: str) -> list[str]:
    """Return layers as a backbone names them; a number is a block, counted from 0.

    Examples
    --------
    >>> layer_names("3, 11, layer4")
    ['block3', 'block11', 'layer4']
    """
    names = [name.strip() for name in text.split(",")]
    return [f"block{name}" if name.isdecimal() else name for name in names]


def read_config(context: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Take options from a TOML file where flags do not give them; tables hold parameters of single models."""
    if value is None:
        return None
    if not value.exists():
        raise FileNotFoundError(f"config {value} does not exist")
    complaint = f"config {value} is not TOML:"
    text = read_text(value, complaint)
    with reading(complaint):
        content = tomllib.loads(text)
    names = {
        flag.lstrip("-"): known.name for known in context.command.params for flag in known.opts if known.name
    }
    defaults: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for key, given in content.items():
        if isinstance(given, dict):
            tables[key] = given
        elif key in names and key != "config":
            defaults[names[key]] = ",".join(map(str, given)) if isinstance(given, list) else given
        else:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"config {value} has an unknown key {shorten(repr(key))}{hint}")
    context.default_map = defaults
    context.obj = tables
    return value


Config = Annotated[
    Path | None,
    option(
        "--config",
        help="TOML file of these options without dashes, and tables [MODEL] of parameters; flags win.",
        panel=RUN,
        is_eager=True,
        callback=read_config,
    ),
]


def default_cache(out: Path | None = None) -> Path:
    """Return the user's folder of stored features; where that cannot be written, one beside ``out``, if given."""
    from neuroattn.encoding.features import user_cache

    cache = user_cache()
    above = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if out is None or (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        return cache
    beside = Path(f"{out.resolve()}.features")
    typer.echo(f"{cache} cannot be written; features are kept in {beside}", err=True)
    return beside
