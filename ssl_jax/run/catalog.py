"""The methods that the package holds, as `ssl-jax methods` and `ssl_jax.methods()` list them."""

import importlib
import inspect
from dataclasses import dataclass

from ssl_jax.objectives.base import Objective
from ssl_jax.run import configs


@dataclass(frozen=True)
class MethodSummary:
    """Facts by which a user chooses a method.

    Attributes:
      family: "contrastive", "masked", ...
      paper: title, authors and source.
      needs: the data that it trains on, in words.
      recipes: names of its configs: the small one, the paper's, others.
    """

    family: str
    paper: str
    needs: str
    recipes: tuple[str, ...]


def methods() -> dict[str, MethodSummary]:
    """Return name -> summary of every method, by name: `ssl_jax.methods()["simclr"].recipes`."""
    return {
        name: summary(importlib.import_module(f"ssl_jax.objectives.{name}"))
        for name in configs.methods()
    }


def summary(module: object) -> MethodSummary:
    """Return the summary of the method in a module."""
    paper = (inspect.getdoc(module) or "").splitlines()[0].rstrip(".")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Objective) and value is not Objective
    ]
    name = module.__name__  # type: ignore[attr-defined]
    method = next(value for value in own if value.__module__ == name)
    recipes = configs.recipes(name.rpartition(".")[2])
    return MethodSummary(method.family, paper, method.needs, tuple(recipes))
