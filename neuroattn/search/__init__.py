"""Eccentricity-dependent visual search: eccNET, its experiments, and any backbone."""

__all__: list[str] = []
