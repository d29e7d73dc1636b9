"""Attention primitives shared by all models: each has a reference, a fast CPU route and a place for a kernel."""

if __name__ != "neuroattn.kernels":
    raise ImportError("import neuroattn.kernels; the top-level folder kernels/ is not a package of its own")
