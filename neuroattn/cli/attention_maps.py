"""``neuroattn attention-maps``: where the regions of a fitted encoder look in given images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroattn.cli import _options as shared
from neuroattn.cli import app
from neuroattn.cli._display import human_bytes, progress_bars
from neuroattn.cli._options import DATA, MODEL, RUN, default_cache, option


@app.command("attention-maps", no_args_is_help=True)
def attention_maps(
    encoder: Annotated[
        Path, option("--encoder", help="Folder of one fit, or of the study of one subject.", panel=MODEL)
    ],
    images: Annotated[
        str, option("--images", help="Folder, zip archive or FILE[:key] of images.", panel=DATA)
    ],
    out: Annotated[Path, option("--out", help="Folder for attention.zarr and PNG files.", panel=RUN)],
    model: Annotated[
        str, option("--model", help="Column of the study, e.g. attention@block10.", panel=MODEL)
    ] = "attention",
    regions: Annotated[
        str | None, option("--regions", help="Only these regions, e.g. FFA-1,EBA.", panel=MODEL)
    ] = None,
    per_head: Annotated[
        bool, option("--per-head", help="One map a head instead of their mean.", panel=MODEL)
    ] = False,
    overlays: Annotated[
        int, option("--overlays", help="Draw the maps over the first so many images.", panel=RUN)
    ] = 16,
    cache: shared.Cache = None,
    device: shared.Device = "auto",
    config: shared.Config = None,
    dry_run: Annotated[bool, option("--dry-run", help="Say what would be written.", panel=RUN)] = False,
) -> None:
    """Map where the regions of a fitted encoder look in images, and draw the maps over them.

    Example: neuroattn attention-maps --encoder subj01 --images photos.zip --regions FFA-1,EBA --out maps
    """
    import numpy as np

    from neuroattn.analyses.figures import plot_image_attention
    from neuroattn.analyses.fitted import find_fits, map_attention
    from neuroattn.datasets import read_images
    from neuroattn.encoding.network_encoders import resolve_device
    from neuroattn.results import filling

    fits = find_fits(encoder, only=model)
    found = read_images(images)
    device = resolve_device(device)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose another folder")
    if dry_run:
        typer.echo(f"{len(fits)} fits of {fits[0].label}, {len(found)} images; nothing was written")
        return
    chosen = None if regions is None else [name.strip() for name in regions.split(",")]
    with progress_bars() as progress:
        maps = map_attention(
            encoder,
            found,
            cache=cache or default_cache(out),
            model=model,
            regions=chosen,
            per_head=per_head,
            device=device,
            progress=progress.update,
        )
        n_drawn = min(overlays, len(found))
        with filling(out) as folder:
            stored = maps.assign_coords({name: maps[name].astype(object) for name in ("roi", "hemisphere")})
            stored.to_dataset().to_zarr(folder / "attention.zarr", zarr_format=3, consolidated=False)
            for i in range(n_drawn):
                progress.update("overlays", i, n_drawn)
                one = maps.isel(stimulus=i).astype(np.float32).mean("seed")
                figure = plot_image_attention(one, found[i])
                name = f"{i:04d}_{str(maps.stimulus.values[i])[:80]}.png"
                figure.savefig(folder / name, dpi=150, facecolor="white")
            progress.update("overlays", n_drawn, n_drawn)
    typer.echo(
        f"{maps.sizes['query']} queries over {len(found)} images: {human_bytes(maps.nbytes)} in "
        f"{out / 'attention.zarr'}, {n_drawn} drawings"
    )
