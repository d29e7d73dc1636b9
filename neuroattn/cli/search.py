"""``neuroattn search``: search an image for a target, and measure search asymmetries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroattn.cli import search_app
from neuroattn.cli._display import console, progress_bars, this_command
from neuroattn.cli._options import DATA, MODEL, RUN, STATISTICS, Device, option

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from neuroattn.search import EccNet

Backbone = Annotated[
    str,
    option("--backbone", help="demo, vgg16 (with --weights) or any convolutional timm model.", panel=MODEL),
]
Weights = Annotated[
    str | None,
    option("--weights", help="File of weights (.h5, .pth, .safetensors), or random.", panel=MODEL),
]
Taps = Annotated[
    str | None, option("--taps", help="Comma-separated layers of the network to compare.", panel=MODEL)
]
Seed = Annotated[int, option("--seed", help="Of everything that is drawn.", panel=RUN)]
PRESETS = ("clean", "paper", "natural", "ivsn")
PRESET_HELP = "clean, paper, natural or ivsn (needs vgg16)."


@search_app.command("run", no_args_is_help=True)
def run(
    image: Annotated[Path, typer.Argument(help="Image to search.")],
    target: Annotated[Path, typer.Argument(help="Image of the target alone, as large as in the image.")],
    out: Annotated[Path, option("--out", help="New folder for the results.", panel=RUN)],
    box: Annotated[
        str | None, option("--box", help="Where the target is: X,Y,WIDTH,HEIGHT in px.", panel=DATA)
    ] = None,
    mask: Annotated[
        Path | None, option("--mask", help="Where the target is: an image, bright there.", panel=DATA)
    ] = None,
    px_per_degree: Annotated[
        float | None,
        option(
            "--px-per-degree",
            help="Pixels per degree of visual angle (paper, natural, ivsn: 30).",
            panel=DATA,
        ),
    ] = None,
    start: Annotated[
        str | None, option("--start", help="First fixation: X,Y in px (centre).", panel=DATA)
    ] = None,
    background: Annotated[
        int | None,
        option("--background", help="Grey level around the image, 0 to 255 (the image's mean).", panel=DATA),
    ] = None,
    max_fixations: Annotated[
        int, option("--max-fixations", help="Most fixations, the first included.", panel=DATA)
    ] = 20,
    preset: Annotated[str, option("--preset", help=PRESET_HELP, panel=MODEL)] = "clean",
    backbone: Backbone = "demo",
    weights: Weights = None,
    taps: Taps = None,
    temperature: Annotated[
        float, option("--temperature", help="Of a random choice among places; 0 takes the best.", panel=MODEL)
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: Annotated[
        bool, option("--dry-run", help="Say what would be searched and how long it takes.", panel=RUN)
    ] = False,
) -> None:
    """Search an image for a target: fixations, the maps they were chosen from, and a report.

    Without --box and --mask nobody knows where the target is, and the search goes on to --max-fixations.

    Example: neuroattn search run desk.jpg mug.png --box 412,220,64,80 --px-per-degree 30 --out mug

    Example: neuroattn search run desk.jpg mug.png --backbone vgg16 --weights vgg16.h5 --preset natural --out mug
    """
    from dataclasses import replace

    from neuroattn.analyses.search_run import check_new, estimate_fixation, search_image
    from neuroattn.search import SearchTrial

    if box is not None and mask is not None:
        raise ValueError("--box must not be given with --mask")
    pixels = read_image(image)
    where = None if mask is None else read_mask(mask)
    if box is not None:
        where = box_mask(box, pixels.shape[:2])
    trial = SearchTrial(
        pixels,
        read_image(target),
        where,
        max_fixations=max_fixations,
        background=mean_grey(pixels) if background is None else background,
        px_per_degree=px_per_degree,
        start=None if start is None else parse_point(start),
    )
    model = load_model(preset, backbone, weights, taps, device)
    model.config = replace(model.config, temperature=temperature)
    if px_per_degree is None and model.config.px_per_degree is None:
        raise ValueError(f"--px-per-degree must be given with --preset {preset}")
    check_new(out)
    if dry_run:
        seconds = estimate_fixation(model, trial)
        height, width = pixels.shape[:2]
        typer.echo(f"{image}: {width} x {height} px, up to {max_fixations} fixations of {seconds:.2g} s each")
        typer.echo(f"at most about {seconds * (max_fixations - 1):.0f} s; nothing was written")
        return
    network = backbone if weights is None else f"{backbone} ({weights} weights)"
    path = search_image(model, trial, out, network=network, seed=seed, command=this_command())
    outcome = {True: "found", False: "not found", None: "searched, target place unknown"}[path.found]
    saccades = f"{path.n_saccades} saccade{'s' * (path.n_saccades != 1)}"
    console.print(f"{outcome} after {saccades}; {out / 'report.html'}", soft_wrap=True)


@search_app.command("asymmetry", no_args_is_help=True)
def asymmetry(
    out: Annotated[Path, option("--out", help="Folder for the results.", panel=RUN)],
    experiment: Annotated[
        str,
        option(
            "--experiment",
            help="Comma-separated: curvature, lighting, intersection, letters, orientation, orientation_mixed; or all.",
            panel=DATA,
        ),
    ] = "all",
    trials: Annotated[
        int,
        option("--trials", help="Displays of each condition and set size (published: 30 or 36).", panel=DATA),
    ] = 10,
    preset: Annotated[str, option("--preset", help=PRESET_HELP, panel=MODEL)] = "paper",
    backbone: Backbone = "demo",
    weights: Weights = None,
    taps: Taps = None,
    controls: Annotated[
        bool,
        option(
            "--controls/--no-controls",
            help="Run the network without eccentricity and with random weights, pixel match and chance.",
            panel=STATISTICS,
        ),
    ] = True,
    resamples: Annotated[
        int, option("--resamples", help="Of the bootstrap over displays.", panel=STATISTICS)
    ] = 2000,
    batch_size: Annotated[int, option("--batch-size", help="Displays in one forward pass.", panel=RUN)] = 4,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, option("--resume", help="Continue an interrupted run in --out.", panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Say what would be searched and how long it takes.", panel=RUN)
    ] = False,
) -> None:
    """Measure whether finding A among B is harder than finding B among A, beside controls and people.

    Example: neuroattn search asymmetry --experiment curvature --out curvature

    Example: neuroattn search asymmetry --backbone vgg16 --weights vgg16.h5 --trials 30 --out asymmetry
    """
    from neuroattn._checks import check_option, check_range
    from neuroattn.analyses.search_run import estimate_asymmetries, study_asymmetries
    from neuroattn.search.experiments import EXPERIMENTS

    names = list(EXPERIMENTS) if experiment == "all" else [name.strip() for name in experiment.split(",")]
    for name in names:
        check_option("--experiment", name, EXPERIMENTS)
    check_range("--trials", trials, 1)
    displays = [EXPERIMENTS[name](n_per_size=trials, seed=seed) for name in dict.fromkeys(names)]
    model = load_model(preset, backbone, weights, taps, device)
    if dry_run:
        with console.status("measuring one fixation of each experiment"):
            costs = estimate_asymmetries(model, displays, controls=controls, seed=seed)
        for name, cost in costs.items():
            typer.echo(
                f"{name}: {cost['n_trials']:.0f} displays a model, {cost['seconds']:.2g} s a fixation, "
                f"about {cost['total'] / 60:.1f} min with all controls"
                if controls
                else f"{name}: {cost['n_trials']:.0f} displays, {cost['seconds']:.2g} s a fixation, "
                f"about {cost['total'] / 60:.1f} min"
            )
        total = sum(cost["total"] for cost in costs.values())
        typer.echo(
            f"about {total / 60:.0f} min in all, if trained networks need half the fixations of a blind search"
        )
        typer.echo("nothing was written")
        return
    with progress_bars() as progress:
        result = study_asymmetries(
            model,
            displays,
            out,
            name=backbone,
            controls=controls,
            n_resamples=resamples,
            batch_size=batch_size,
            seed=seed,
            resume=resume,
            command=this_command(),
            progress=lambda stage, done, total: progress.update("displays", done, total),
        )
    print_asymmetries(result, out)


def load_model(preset: str, backbone: str, weights: str | None, taps: str | None, device: str) -> EccNet:
    """Return a model of a preset and a network."""
    from neuroattn._checks import check_option
    from neuroattn.encoding.network_encoders import resolve_device
    from neuroattn.search import EccNet, SearchConfig, load_search_backbone

    config: SearchConfig = getattr(SearchConfig, check_option("--preset", preset, PRESETS))()
    layers = None if taps is None else [tap.strip() for tap in taps.split(",")]
    network = load_search_backbone(backbone, weights=weights, taps=layers, device=resolve_device(device))
    unknown = [tap for tap in config.taps or () if tap not in network.taps]
    if unknown:
        raise ValueError(
            f"--preset {preset} needs --backbone vgg16, whose {unknown[0]} it reads, got {backbone}"
        )
    return EccNet(network, config)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of a picture file as they are; grey, RGBA and 16 bits are left to the trial."""
    import numpy as np

    from neuroattn._files import open_image, reading

    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    with reading(f"image {path} is not a picture file that can be read:"), open_image(path) as picture:
        wanted = picture.mode
        if picture.mode in ("P", "CMYK", "1", "LA", "YCbCr"):
            wanted = "RGBA" if "transparency" in picture.info or picture.mode == "LA" else "RGB"
        pixels = np.asarray(picture.convert(wanted))
    # Pillow opens 16-bit pictures as 32-bit ones.
    if pixels.dtype in (np.int32, np.uint32) and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)
    return pixels


def mean_grey(pixels: NDArray[np.uint8]) -> int:
    """Return the grey level around which the pixels lie: an edge of the image should not look like an object.

    Examples
    --------
    >>> import numpy as np
    >>> mean_grey(np.full((2, 2), 2570, np.uint16))
    10
    """
    grey = pixels if pixels.ndim == 2 else pixels[..., :3]
    return round(float(grey.mean()) / (257 if grey.dtype.itemsize > 1 else 1))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return where a picture is brighter than middle grey."""
    import numpy as np

    from neuroattn._files import open_image, reading

    if not path.is_file():
        raise FileNotFoundError(f"mask {path} does not exist")
    with reading(f"mask {path} is not a picture file that can be read:"), open_image(path) as picture:
        bright: NDArray[np.bool_] = np.asarray(picture.convert("L")) > 127
    return bright


def box_mask(text: str, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where a box X,Y,WIDTH,HEIGHT is in an image of a size (y, x).

    Examples
    --------
    >>> box_mask("1,0,2,1", (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    import numpy as np

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box must be X,Y,WIDTH,HEIGHT in whole px, got {text!r}") from None
    if min(x, y) < 0 or min(width, height) < 1 or y + height > size[0] or x + width > size[1]:
        raise ValueError(f"--box must lie within the image, {size[1]} x {size[0]} px, got {text!r}")
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def parse_point(text: str) -> tuple[float, float]:
    """Return X,Y in px.

    Examples
    --------
    >>> parse_point("400,300")
    (400.0, 300.0)
    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--start must be X,Y in px, got {text!r}") from None
    return x, y


def print_asymmetries(result: xr.Dataset, out: Path) -> None:
    """Print the index of every model and experiment, what may be claimed, and where the results are."""
    from rich.table import Table

    rule = "cap"
    table = Table(title="asymmetry index, 95 % interval over displays; unfound targets count the cap")
    table.add_column("experiment")
    for name in result.model.values:
        table.add_column(str(name), justify="right", overflow="fold")
    table.add_column("people", justify="right")
    for experiment in result.experiment.values:
        cells = [str(experiment).replace("_", " ")]
        for name in result.model.values:
            one = result.sel(model=name, experiment=experiment, unfound=rule)
            low, high = one.index_ci.values
            star = "*" if int(one.claim) else ""
            cells.append(f"{float(one['index']):+.2f}{star} ({low:+.2f} to {high:+.2f})")
        people = float(result.human_index.sel(experiment=experiment))
        table.add_row(*cells, f"{people:+.2f}" if people == people else "none")
    console.print(table)
    if (result.kind == "control").any():
        console.print(
            "* a polarity beyond all controls. Positive: the condition harder for people is harder."
        )
    console.print(f"Table: {out / 'asymmetry.csv'}; report: report.html", soft_wrap=True)
