"""Versions of packages, for the records that runs and files keep."""

import importlib.metadata


def version(package: str) -> str:
    """Return the version of an installed package, or "not installed".

    A clone on the Python path runs without being installed, so a missing version is no error.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
