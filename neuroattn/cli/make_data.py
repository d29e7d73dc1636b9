"""``neuroattn make-data``: simulated subjects on disk, in the layouts of real data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroattn.cli import make_data_app
from neuroattn.cli._display import human_bytes, progress_bars
from neuroattn.cli._options import default_cache

if TYPE_CHECKING:
    from neuroattn.datasets import Recording
    from neuroattn.encoding import Backbone


@make_data_app.command("algonauts")
def make_algonauts(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    subjects: Annotated[int, typer.Option("--subjects", help="Subject numbers, e.g. --subjects 1 2.")] = 1,
    more_subjects: Annotated[list[int] | None, typer.Argument(hidden=True)] = None,
    n_train: Annotated[int, typer.Option("--n-train", help="Training images.")] = 380,
    n_test: Annotated[int, typer.Option("--n-test", help="Test images.")] = 120,
    sessions: Annotated[
        int | None,
        typer.Option(
            "--sessions", help="Present images 1 to 3 times in this many sessions, as make-data nsd does."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Subject N is made from seed + N - 1.")] = 0,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of stored features; the user's cache by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
) -> None:
    """Simulate subjects and write them in the Algonauts 2023 layout.

    Example: neuroattn make-data algonauts --out data --subjects 1 2
    """
    from neuroattn.datasets import write_algonauts
    from neuroattn.encoding import load_backbone

    numbers = [subjects, *(more_subjects or [])]
    for number in numbers:
        if (out / f"subj{number:02d}").exists():
            raise FileExistsError(f"{out / f'subj{number:02d}'} exists; subjects are not overwritten")
    if dry_run:
        size = (n_train + n_test) * 100_000  # a PNG of 224 x 224 takes about this
        typer.echo(
            f"{len(numbers)} subjects, about {human_bytes(len(numbers) * size)} in {out}; nothing was written"
        )
        return
    cache = cache or default_cache(out)
    network = load_backbone("demo")
    with progress_bars() as progress:
        for i, number in enumerate(numbers):
            progress.update("subjects", i, len(numbers))
            recording = _simulate(network, cache, n_train, n_test, sessions, seed + number - 1, progress)
            write_algonauts(recording, out, number)
        progress.update("subjects", len(numbers), len(numbers))
    typer.echo(f"Simulated subjects {', '.join(map(str, numbers))} in {out}")


@make_data_app.command("nsd")
def make_nsd(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; one subject a folder.")],
    subject: Annotated[int, typer.Option("--subject", help="Subject number, 1 to 8.")] = 1,
    n_train: Annotated[int, typer.Option("--n-train", help="Training images.")] = 380,
    n_test: Annotated[int, typer.Option("--n-test", help="Test images.")] = 120,
    sessions: Annotated[int, typer.Option("--sessions", help="Sessions; test images in the last three.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Subject N is made from seed + N - 1.")] = 0,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of stored features; the user's cache by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
) -> None:
    """Simulate a subject and write it as the Natural Scenes Dataset is distributed.

    make-data algonauts with the same --seed and --sessions writes the same subject in the other layout.

    Example: neuroattn make-data nsd --out data
    """
    from neuroattn.datasets import write_nsd
    from neuroattn.datasets.nsd import check_subject
    from neuroattn.datasets.surfaces import MESH_SIZES
    from neuroattn.encoding import load_backbone

    check_subject(subject)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; subjects are not overwritten")
    if dry_run:
        n_images = n_train + n_test
        size = n_images * (224 * 224 * 3 + 2 * 2 * 4 * MESH_SIZES["fsaverage5"])  # two trials an image
        typer.echo(f"1 subject, about {human_bytes(size)} in {out}; nothing was written")
        return
    cache = cache or default_cache(out)
    network = load_backbone("demo")
    with progress_bars() as progress:
        recording = _simulate(network, cache, n_train, n_test, sessions, seed + subject - 1, progress)
        write_nsd(recording, out, subject)
    typer.echo(f"Simulated subject {subject} in {out}")


def _simulate(
    network: Backbone,
    cache: Path,
    n_train: int,
    n_test: int,
    sessions: int | None,
    seed: int,
    progress: Any,
) -> Recording:
    from neuroattn.analyses.demo import make_demo_recording
    from neuroattn.datasets import simulate_sessions

    recording = make_demo_recording(
        network,
        cache,
        n_train=n_train,
        n_test=n_test,
        seed=seed,
        progress=progress.update,
    )
    return recording if sessions is None else simulate_sessions(recording, sessions, seed=seed)


@make_data_app.command("scanpaths")
def make_scanpaths(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="coco-search18, osie, visions, pysaliency, events, multimatch, book-covers, or neuroattn's own.",
        ),
    ] = "neuroattn",
    scenes: Annotated[int, typer.Option("--scenes", help="Search arrays.")] = 60,
    observers: Annotated[int, typer.Option("--observers", help="Each searches every array once.")] = 5,
    objects: Annotated[int, typer.Option("--objects", help="Objects of an array.")] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
) -> None:
    """Simulate people who search arrays of objects, in the layout of a real data set.

    The searcher is a conditional logit with known weights; --layout neuroattn keeps them with the fixations.

    Example: neuroattn make-data scanpaths --out arrays --layout coco-search18
    """
    from neuroattn._checks import check_option
    from neuroattn.datasets import SCANPATH_LAYOUTS, make_search_arrays, write_scanpaths

    # Objects of ObjArr are always at the same places.
    check_option("layout", layout, [name for name in SCANPATH_LAYOUTS if name != "objarr"])
    if out.exists():
        raise FileExistsError(f"{out} exists; data are not overwritten")
    what = f"{scenes * observers} trials of {observers} observers in {scenes} arrays"
    if dry_run:
        typer.echo(f"{what}, layout {layout}, in {out}; nothing was written")
        return
    # The shelf of the book covers is a grid.
    grid = (6, 14) if layout == "book-covers" else None
    size = (1680, 720) if grid else (320, 240)
    dataset = make_search_arrays(
        n_scenes=scenes,
        n_observers=observers,
        n_objects=objects,
        grid=grid,
        image_size=size,
        max_fixations=40 if grid else 12,
        seed=seed,
    )
    write_scanpaths(dataset, out, layout=layout)
    typer.echo(f"Simulated {what}, layout {layout}, in {out}")
