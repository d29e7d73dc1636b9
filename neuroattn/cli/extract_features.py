"""``neuroattn extract-features``: run a frozen network over images once and keep what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroattn.cli import app
from neuroattn.cli._display import human_bytes, progress_bars
from neuroattn.cli._options import default_cache, layer_names

if TYPE_CHECKING:
    from neuroattn.datasets import Images


@app.command("extract-features", no_args_is_help=True)
def extract_features(
    images: Annotated[
        str | None,
        typer.Option("--images", help="Folder, zip archive or FILE[:key] (.npy, .npz, .h5) of images."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of a data set, instead of --images.")
    ] = None,
    layout: Annotated[str, typer.Option("--layout", help="algonauts or nsd (with --data).")] = "algonauts",
    subject: Annotated[int, typer.Option("--subject", help="Subject number (with --data).")] = 1,
    split: Annotated[
        str, typer.Option("--split", help="Partition of the fit, which decides on the images (nsd).")
    ] = "algonauts",
    backbone: Annotated[
        str,
        typer.Option("--backbone", help="demo, dinov2_vitb14, clip_vitl14, or any timm model."),
    ] = "demo",
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", help="Comma-separated, all in one pass, e.g. 3,11 or block3,block11:q; or the last."
        ),
    ] = None,
    facet: Annotated[
        str,
        typer.Option("--facet", help="output, q, k, v, projection; cls, q_cls ... of the class token."),
    ] = "output",
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Resize images to this many pixels a side.")
    ] = None,
    pool: Annotated[
        int | None, typer.Option("--pool", help="Average tokens to this many a side first.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, or float16 in half the space.")] = "float32",
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="File of weights, or random; else they are downloaded once."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one forward pass.")] = 32,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", help="Folder of the stores; the user's cache, as for fit-encoder, by default."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda ...")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and write nothing.")
    ] = False,
) -> None:
    """Extract features of images at one or several layers of a frozen network, and store them.

    One store a layer, named by a hash of weights, layer, preprocessing and images, so that fit-encoder with the same
    options finds it. A second call computes only what is missing or damaged.

    Example: neuroattn extract-features --images photos.zip --backbone demo --layers block4,block10

    Example: neuroattn extract-features --data nsd --subject 1 --backbone dinov2_vitb14 --layers block11 --facet q
    --weights dinov2_vitb14_pretrain.pth --dtype float16 --dry-run
    """
    from neuroattn.encoding import features, load_backbone
    from neuroattn.encoding.network_encoders import resolve_device

    found = _open_images(images, data, layout, subject, split)
    device = resolve_device(device)
    if layers is None:
        network = load_backbone(backbone, facet=facet, image_size=image_size, weights=weights, device=device)
        backbones = {network.layer: network}
    else:
        backbones = load_backbone(
            backbone,
            layers=layer_names(layers),
            facet=facet,
            image_size=image_size,
            weights=weights,
            device=device,
        )
    cache = cache or default_cache()
    height, width = found.shape[1:3]
    cost = features.estimate_cost(backbones, len(found), pool, dtype, image_size=(height, width))
    for name, shape in cost["shape"].items():
        typer.echo(f"{name} of {backbones[name].name}: {dtype} {shape}")
    typer.echo(
        f"{len(found)} images: {human_bytes(cost['bytes'])} in {cache}, about {cost['seconds']:.0f} s, "
        f"{cost['flops'] / 1e12:.3g} TFLOP"
    )
    if dry_run:
        typer.echo("nothing was written")
        return
    with progress_bars() as progress:
        done = 0

        def report(n: int) -> None:
            nonlocal done
            done += n
            progress.update("features", done, len(found))

        stores = features.extract_features(
            found, backbones, cache, dtype=dtype, pool=pool, batch_size=batch_size, progress=report
        )
    for name, store in stores.items():
        typer.echo(f"{name}: {store.path}")


def _open_images(images: str | None, data: Path | None, layout: str, subject: int, split: str) -> Images:
    from neuroattn import datasets
    from neuroattn._checks import check_option

    if images is not None and data is None:
        return datasets.read_images(images)
    if data is None or images is not None:
        raise ValueError("either --images or --data must be given, got " + ("both" if images else "neither"))
    if check_option("layout", layout, ("algonauts", "nsd")) == "nsd":
        recording = datasets.load_nsd(data, subject, split=split, read_betas=False)
    else:
        recording = datasets.load_algonauts(data, subject)
    if recording.images is None:
        raise ValueError(f"recording {recording.name!r} in {data} must have images, got features alone")
    found: Images = recording.images
    return found
