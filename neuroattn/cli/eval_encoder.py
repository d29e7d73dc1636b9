"""``neuroattn eval-encoder``: score fitted encoders on a data set that they were not fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroattn.cli import _options as shared
from neuroattn.cli import app
from neuroattn.cli._display import print_checks, print_scores, progress_bars
from neuroattn.cli._options import DATA, MODEL, RUN, STATISTICS, default_cache, option


@app.command("eval-encoder", no_args_is_help=True)
def eval_encoder(
    encoder: Annotated[
        Path, option("--encoder", help="Folder of one fit, or of the study of one subject.", panel=MODEL)
    ],
    out: Annotated[Path, option("--out", help="Folder for scores.nc and roi_scores.nc.", panel=RUN)],
    demo: shared.Demo = False,
    data: shared.DataFolder = None,
    layout: shared.Layout = "algonauts",
    subject: Annotated[
        str, option("--subject", help="Number of the subject (algonauts, nsd).", panel=DATA)
    ] = "1",
    space: shared.Space = None,
    betas: shared.Betas = None,
    images: shared.Images = None,
    features: shared.Features = None,
    responses: shared.ResponsesFile = None,
    orientation: shared.Orientation = None,
    rois: shared.Rois = None,
    repeats: shared.Repeats = None,
    trials: shared.Trials = None,
    stimulus_ids: shared.StimulusIds = None,
    mask: shared.Mask = None,
    unit_kind: shared.UnitKind = None,
    split: Annotated[
        str | None, option("--split", help="Which trials are averaged (nsd), as for fit-encoder.", panel=DATA)
    ] = None,
    regions: shared.Regions = None,
    min_ceiling: Annotated[
        float, option("--min-ceiling", help="Units below have no r2_over_ceiling.", panel=STATISTICS)
    ] = 0.1,
    shuffles: Annotated[
        int, option("--shuffles", help="Shuffles of the stimuli: p of every unit.", panel=STATISTICS)
    ] = 1000,
    seed: Annotated[int, option("--seed", help="Of shuffles and intervals.", panel=STATISTICS)] = 0,
    cache: shared.Cache = None,
    device: shared.Device = "auto",
    config: shared.Config = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Say what is there, and write nothing.", panel=RUN)
    ] = False,
) -> None:
    """Score fitted encoders on stimuli that they were not fitted to, with ceilings and p-values.

    Example: neuroattn eval-encoder --encoder subj01 --data nsd --layout nsd --subject 1 --split shared1000 --out shared

    Example: neuroattn eval-encoder --encoder v4/models/attention/seed-0/fold-0 --layout arrays --images new.zip
    --responses new.npy --orientation unit-stimulus --unit-kind neuron --out v4-new
    """
    from neuroattn.analyses.fitted import evaluate_encoder, find_fits
    from neuroattn.encoding.network_encoders import resolve_device

    fits = find_fits(encoder)
    device = resolve_device(device)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {out} must be a folder, got a file")
    if (out / "scores.nc").exists():
        raise FileExistsError(f"{out / 'scores.nc'} exists; choose another folder")
    averages = None if cache is None else cache / "nsd"
    cache = cache or default_cache(out)
    sources = shared.recording_sources(
        demo=demo,
        data=data,
        layout=layout,
        subjects=subject,
        arrays={
            "responses": responses,
            "orientation": orientation,
            "images": images,
            "features": features,
            "rois": rois,
            "repeats": repeats,
            "trials": trials,
            "stimulus_ids": stimulus_ids,
            "mask": mask,
            "unit_kind": unit_kind,
        },
        nsd={
            "space": space,
            "betas": betas,
            "split": split,
            "cache": averages,
        },
        regions=shared.parse_regions(regions),
        cache=cache,
        seed=seed,
    )
    if len(sources) > 1:
        raise ValueError(f"--subject must name one subject, got {subject!r}")
    (source,) = sources.values()
    if dry_run:
        print_checks(source.inspect())
        typer.echo(f"{len(fits)} fits in {encoder}; nothing was written")
        return
    with progress_bars() as progress:
        scores = evaluate_encoder(
            encoder,
            source(progress.update),
            out,
            cache=cache,
            min_ceiling=min_ceiling,
            n_shuffles=shuffles,
            seed=seed,
            device=device,
            progress=progress.update,
        )
    print_scores(scores, out)
    if scores.attrs["n_fitted"]:
        typer.echo(f"left out {scores.attrs['n_fitted']} stimuli that the encoders were fitted to")
