"""Versions of packages, as records and files name what made them."""

import importlib.metadata


def versions(*names: str) -> dict[str, str]:
    """Return the version of each package by name.

    A clone that runs from its folder, uninstalled, has no version: "not installed".
    """
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
