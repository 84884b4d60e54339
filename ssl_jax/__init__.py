"""Self-supervised visual representation learning in JAX.

    import ssl_jax

    ssl_jax.methods()                                        # names, papers, recipes
    ssl_jax.train("simclr:digits", workdir="W")              # or data="folder:/my/images"
    encoder = ssl_jax.load("W")                              # features = encoder(images)
    ssl_jax.evaluate("W", ["knn", "linear"])
    ssl_jax.embed("W", "folder:/my/images")["features"]
    ssl_jax.export("W", "w.safetensors", format="timm")
    ssl_jax.push("W", "USER/NAME")                           # to the Hugging Face hub
    ssl_jax.finetune("W", "folder:/labelled", "C")           # a classifier, and its report
    ssl_jax.predict("C", "folder:/my/images")["label"]
    ssl_jax.duplicates("W", "folder:/my/images")             # also outliers

docs/python.md describes them. Everything else is imported from its own module: `from
ssl_jax.losses.ntxent import ntxent` imports neither networks nor data.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_jax.api import embed, evaluate, export, load, methods, push, train
    from ssl_jax.api_labels import duplicates, finetune, outliers, predict
    from ssl_jax.core.errors import UserError
    from ssl_jax.embeddings.encoder import ImageEncoder

    __version__: str

__all__ = [
    "ImageEncoder",
    "UserError",
    "__version__",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "load",
    "methods",
    "outliers",
    "predict",
    "push",
    "train",
]

_PLACES = {
    "ImageEncoder": "ssl_jax.embeddings.encoder",
    "UserError": "ssl_jax.core.errors",
    **dict.fromkeys(("duplicates", "finetune", "outliers", "predict"), "ssl_jax.api_labels"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("ssl_jax.core.versions").versions("ssl-jax")["ssl-jax"]
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES.get(name, "ssl_jax.api")), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
