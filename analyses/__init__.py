"""Studies and reports built from the models."""

if __name__ != "neuroattn.analyses":
    raise ImportError("import neuroattn.analyses; the top-level folder analyses/ is not a package of its own")
