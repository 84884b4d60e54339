"""`ResolvedConfig`: the sections of a config as checked dataclasses."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ssl_jax.control.environment import ControlConfig
from ssl_jax.core import config as checked
from ssl_jax.core import credentials
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.run.configs import NAMES
from ssl_jax.run.sections import SECTIONS
from ssl_jax.training import workdir
from ssl_jax.training.checkpoint import CheckpointConfig
from ssl_jax.training.loop import TrainConfig


@dataclasses.dataclass(frozen=True)
class ResolvedConfig:
    """Sections of a config, checked; nothing is built or opened.

    Attributes:
      raw: the config as it was read.
      sections: name -> dataclass, of all sections but `objective` and `backbone`, whose keys the
        method and the backbone declare.
      folder: the workdir, if there is one.
    """

    raw: Mapping[str, Any]
    sections: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path | None = None) -> Self:
        """Check every section of a config file, or of a workdir's config.json.

        `folder` is the workdir: a tokenizer that was saved there is used.

        Raises:
          UserError: an unknown section or key, a value of the wrong type, or a password in one.
        """
        credentials.refuse(config, "")
        for section, values in config.items():
            if section not in (*NAMES, "spec"):
                raise UserError(f"unknown config section {section!r}; {suggest(section, NAMES)}")
            if not isinstance(values, Mapping):
                raise UserError(f"config section {section!r}: expected keys, got {values!r}")
        sections: dict[str, Any] = {
            name: checked.build(kind, config.get(name, {}), name) for name, kind in SECTIONS.items()
        }
        return cls(config, sections, folder)

    @property
    def data(self) -> DataConfig:
        return self.sections["data"]

    @property
    def control(self) -> ControlConfig:
        return self.sections["control"]

    @property
    def train(self) -> TrainConfig:
        return self.sections["train"]

    @property
    def evals(self) -> EvalsConfig:
        return self.sections["evals"]

    @property
    def checkpoint(self) -> CheckpointConfig:
        return self.sections["checkpoint"]

    @cached_property
    def _existing(self) -> Mapping[str, Any] | None:
        """Resolved config of the run that this is, or resumes on the same data, if any."""
        if "spec" in self.raw:
            return self.raw
        if self.folder is None or not (self.folder / "config.json").is_file():
            return None
        old = workdir.read_config(self.folder)
        same = old.get("data", {}).get("train") == self.data.train
        return old if same and "spec" in old else None
