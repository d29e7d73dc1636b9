"""Gaze scanpaths over objects: models, their references, and how well they predict people."""

__all__: list[str] = []
