"""Attention primitives shared by all models."""

if __name__ != "neuroattn.kernels":
    raise ImportError("import neuroattn.kernels; the top-level folder kernels/ is not a package of its own")
