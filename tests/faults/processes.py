"""What other processes do to stores of features: fill them at the same time, are killed, have little memory.

``python processes.py TASKS`` reads ``[[[function, arguments], ...], ...]`` and runs the functions of each group at the
same time, in processes of their own, one group after another. It prints how each process ended.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from neuroattn import cli
from neuroattn._backbones import Backbone, Preprocessing
from neuroattn.datasets import read_images
from neuroattn.encoding import FactorizedEncoder, FeatureStore, extract_features, features
from neuroattn.results import label_rois

MARGIN = 176 * 2**20  # what a process may take beyond what it has


def make_images(n=24):
    return np.random.default_rng(0).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)


def make_backbone(stride=2):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=stride, padding=1))
    return Backbone(network, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="0", input_size=(6, 8))


def fill(folder, name, n):
    """Fill a store in small steps, together with so many others."""
    images, backbone = make_images(), make_backbone()
    Path(folder, name).touch()
    while len(list(Path(folder).glob("ready-*"))) < n:
        time.sleep(0.001)
    extract_features(images, backbone, Path(folder, "cache"), batch_size=2)


def die(folder, at):
    """Be killed in the middle of writing a file of the store."""
    import zarr.storage._local as local

    n, open_partial = 0, local._atomic_write

    def write(path, mode, exclusive=False):
        nonlocal n
        n += 1
        if n == at:
            path.with_suffix(".0.partial").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return open_partial(path, mode, exclusive)

    local._atomic_write = write
    extract_features(make_images(), make_backbone(), Path(folder, "cache"))


def limit_memory():
    """Allow little more memory than is taken already; files that are mapped do not count."""
    threading.stack_size(2**18)  # stacks count as memory, however little of them is used
    taken = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MARGIN, taken + MARGIN))


def extract_large(images, cache):
    """Extract features of images that do not fit in memory."""
    limit_memory()
    store = extract_features(read_images(images), make_backbone(stride=64), cache)
    assert store.shape[0] == len(np.load(images, mmap_mode="r"))


def fit_large(store):
    """Train an encoder on features that do not fit in memory."""
    limit_memory()
    table = FeatureStore(store)
    y = np.random.default_rng(0).normal(size=(len(table), 2)).astype("f4")
    encoder = FactorizedEncoder(rois=label_rois({"V4": [True, True]}), epochs=1, device="cpu")
    assert encoder.fit(table, y).predict(table).shape == y.shape


def run_limited(*words):
    """Run a command with little memory."""
    limit_memory()
    sys.argv[1:] = words
    cli.main()


def start(function, arguments):
    """Run a function in a process that begins as this one."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        features._CHUNK_BYTES = 4 * 240  # of four small images; of one larger map
        globals()[function](*arguments)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    ends = []
    for group in json.loads(sys.argv[1]):
        children = [start(function, arguments) for function, arguments in group]
        ends.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(ends))
