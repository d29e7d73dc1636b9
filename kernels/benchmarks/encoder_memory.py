"""Measure the memory of some steps of fitting one full-size subject, and of predicting its test images; write JSON.

Features (10,000 images x 768 x 16 x 16, half precision, 3.9 GB) and responses (10,000 x 40,000, 1.6 GB) are random
numbers in files, all of which the steps draw from. What counts is the anonymous memory of the process: pages of mapped
files are the system's to drop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from neuroattn.datasets import Responses, Rows
from neuroattn.encoding import BrainEncoder
from neuroattn.kernels.benchmarks.encoder import write_store
from neuroattn.kernels.benchmarks.run import RESULTS, machine

LIMIT = 3e9  # bytes of anonymous memory
BATCH, STEPS, REGIONS = 32, 20, 25


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Peak:
    """Sample the anonymous memory twenty times a second."""

    def __enter__(self) -> Peak:
        self.bytes, self.over = anonymous_bytes(), threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Keep the largest."""
        while not self.over.wait(0.05):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def write_responses(path: Path, n_images: int, n_units: int) -> np.ndarray:
    """Write random responses a block at a time, and map them."""
    rng = np.random.default_rng(1)
    table = open_memmap(path, "w+", np.float32, (n_images, n_units))
    for start in range(0, n_images, 500):
        table[start : start + 500] = rng.standard_normal(
            (len(table[start : start + 500]), n_units), np.float32
        )
    table.flush()
    return open_memmap(path, "r")


def main() -> None:
    """Write the files, fit for some steps, predict, remove the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the files lie while it runs; default the system's")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the images and units; write no result"
    )
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    n_images, n_units, channels, side = 10_000 // scale, 40_000 // scale, 768, 16
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rng = np.random.default_rng(0)
        features = write_store(
            Path(folder) / "features",
            (n_images, channels, side, side),
            lambda n: rng.standard_normal((n, channels, side, side), np.float32),
        )
        left = write_responses(Path(folder) / "left.npy", n_images, n_units // 2)
        right = write_responses(Path(folder) / "right.npy", n_images, n_units // 2)
        responses = Responses([[left, right]])
        regions = np.arange(n_units) * REGIONS // n_units
        rois = {f"region {i}": regions == i for i in range(REGIONS)}
        order = np.random.default_rng(2).permutation(n_images)
        n_test = n_images // 10
        n_watched = STEPS * BATCH // 10  # by early stopping
        test, train = order[:n_test], order[n_test : n_test + STEPS * BATCH + n_watched]
        before = anonymous_bytes()
        seconds = {}
        with Peak() as fitting:
            start = time.perf_counter()
            encoder = BrainEncoder(
                rois, heads=16, epochs=1, batch_size=BATCH, validation_fraction=n_watched / len(train)
            )
            encoder.fit(Rows(features, train), Rows(responses, train))
            seconds["fit"] = time.perf_counter() - start
        with Peak() as predicting:
            start = time.perf_counter()
            shape = encoder.predict(Rows(features, test)).shape
            seconds["predict"] = time.perf_counter() - start
    if shape != (n_test, n_units):
        raise SystemExit(f"prediction has shape {shape}, not {(n_test, n_units)}")
    report = {
        "op": "encoder_memory",
        "device": "cpu",
        "machine": machine("cpu"),
        "features": [n_images, channels, side, side],
        "responses": [n_images, n_units],
        "steps": STEPS,
        "batch": BATCH,
        "predicted": shape,
        "anonymous_bytes": {"before": before, "fit": fitting.bytes, "predict": predicting.bytes},
        "seconds": seconds,
        "limit_bytes": LIMIT,
        "hit": max(fitting.bytes, predicting.bytes) < LIMIT,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if not options.quick:
        (RESULTS / "cpu-encoder_memory.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
