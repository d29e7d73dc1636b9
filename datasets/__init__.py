"""Data sets: readers of published layouts and of a lab's own recordings, and simulated subjects."""

if __name__ != "neuroattn.datasets":
    raise ImportError("import neuroattn.datasets; the top-level folder datasets/ is not a package of its own")
