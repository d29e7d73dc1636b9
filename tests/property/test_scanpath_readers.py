"""What is written in a layout is read from it, and what is damaged is refused in one line."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.datasets import ObjectScene, ScanpathDataset, load_scanpaths, write_scanpaths
from neuroattn.results import Scanpath

COCO, OSIE = (1680, 1050), (800, 600)
# Frame, options of the loader, what the layout keeps, and whether trials may be empty.
LAYOUTS = {
    "neuroattn": (OSIE, {}, {"duration", "target", "found", "objects"}, True),
    "coco-search18": (COCO, {}, {"duration", "target", "objects"}, True),
    "osie": (OSIE, {}, {"duration"}, True),
    "visions": (OSIE, {}, {"duration", "target", "found"}, True),
    "pysaliency": (OSIE, {}, {"duration", "target", "found"}, True),
    "events": (OSIE, {}, {"duration", "target", "found", "objects"}, False),
    "multimatch": (OSIE, {"image_size": OSIE}, {"duration"}, False),
    "book-covers": (OSIE, {}, {"target"}, True),
}
BOXES = [[100, 80, 60, 50], [300, 200, 90, 40], [10, 400, 120, 90]]

positions = st.floats(-40, 1700, allow_subnormal=False).map(lambda value: round(value, 3))
milliseconds = st.integers(60, 900)


@st.composite
def trials(draw, layout):
    """Return a data set in which every observer sees every image once."""
    size, _, _, may_be_empty = LAYOUTS[layout]
    n_images, n_observers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    scenes, paths = {}, []
    for i in range(n_images):
        name = f"{i}.png"
        labels = draw(st.permutations(["cup", "fork", "tv"]))
        target = draw(st.integers(0, 2))
        scenes[name] = ObjectScene(
            BOXES, size, labels=labels, target=target, target_label=labels[target], name=name
        )
        for observer in range(1, n_observers + 1):
            n = draw(st.integers(0 if may_be_empty else 1, 4))
            x, y = (draw(st.lists(positions, min_size=n, max_size=n)) for _ in range(2))
            duration = np.array(draw(st.lists(milliseconds, min_size=n, max_size=n))) / 1000
            attrs = {"observer": str(observer), "image": name, "scene": name, "target": labels[target]}
            paths.append(Scanpath(x, y, size, duration=duration, found=draw(st.booleans()), attrs=attrs))
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes).assign_objects()


def by_trial(dataset):
    """Return the trials by observer and image, whatever their order and folder."""
    return {(p.attrs["observer"], Path(p.attrs["image"]).name): (i, p) for i, p in enumerate(dataset)}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_what_is_written_is_read(layout, data):
    dataset = data.draw(trials(layout))
    _, options, kept, _ = LAYOUTS[layout]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "written"
        write_scanpaths(dataset, target, layout=layout)
        again = load_scanpaths(target, **options)
    assert len(again) == len(dataset)
    found = by_trial(again)
    for (observer, image), (_, path) in by_trial(dataset).items():
        i, read = found[observer, image]
        np.testing.assert_allclose(read.x, path.x, atol=1e-9)
        np.testing.assert_allclose(read.y, path.y, atol=1e-9)
        assert read.image_size == path.image_size
        if "duration" in kept:
            np.testing.assert_allclose(read.duration, path.duration, atol=1e-12)
        if "target" in kept:
            assert read.attrs["target"] == path.attrs["target"]
        if "found" in kept:
            assert read.found == path.found
        if "objects" in kept:
            scene = again.scene_of(i)
            assigned = scene.assign(read.x, read.y)
            np.testing.assert_array_equal(assigned, path.objects)
            assert scene.matches_target.tolist() == dataset.scenes[image].matches_target.tolist()


@pytest.mark.parametrize(
    "layout", ["coco-search18", "osie", "visions", "pysaliency", "book-covers", "neuroattn"]
)
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_truncated_files_are_refused_by_name(layout, share, tmp_path):
    write_scanpaths(make_dataset(), tmp_path / "written", layout=layout)
    for file in sorted((tmp_path / "written").rglob("*")):
        if file.suffix in (".json", ".mat", ".hdf5", ".nc"):
            content = file.read_bytes()
            file.write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match=file.name) as caught:
                load_scanpaths(tmp_path / "written", layout=layout, **LAYOUTS[layout][1])
            assert "\n" not in str(caught.value)
            file.write_bytes(content)


def make_dataset():
    scenes = {"0.png": ObjectScene(BOXES, OSIE, labels=["cup", "fork", "tv"], target=1, target_label="fork")}
    paths = [
        Scanpath(
            [400, 310, 120.5],
            [300, 210, 99],
            OSIE,
            duration=[0.2, 0.3, 0.25],
            found=True,
            attrs={"observer": str(k), "image": "0.png", "scene": "0.png", "target": "fork"},
        )
        for k in range(2)
    ]
    return ScanpathDataset.from_scanpaths(paths, scenes=scenes)
