"""`Experiment`: everything that a config describes, built on demand; used by every subcommand that
needs a model or data.
"""

import dataclasses
import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from ssl_jax import nets
from ssl_jax.augment import recipes
from ssl_jax.augment.crop import take_views
from ssl_jax.core import config as checked
from ssl_jax.core import credentials, distributed, files, sharding
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import prefetch_to_device, replicate
from ssl_jax.data import subset
from ssl_jax.data.pipeline import (
    Batch,
    Batches,
    DataConfig,
    batches,
    check_in_memory,
    check_streams,
    eval_arrays,
    local_part,
)
from ssl_jax.data.reader import num_channels
from ssl_jax.data.sources import Source, held_out, open_source
from ssl_jax.data.survey import Survey, read_alike, survey
from ssl_jax.data.text import BYTES, Tokenizer, from_json, open_tokenizer
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.objectives.base import Objective, Spec, Stream
from ssl_jax.optim.factory import make_optimizer
from ssl_jax.run.configs import NAMES, load_method
from ssl_jax.run.sections import SECTIONS, settle_objective
from ssl_jax.train import state, workdir
from ssl_jax.train.checkpoint import CheckpointConfig
from ssl_jax.train.loop import TrainConfig
from ssl_jax.train.online_probe import OnlineProbe

RANGE_BEFORE = (0.0, 65535.0)  # of wide pixels, in runs of versions without `data.range`
TOKENIZER = "tokenizer.json"  # in the folder of a run


def range_of(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the range of pixels that are not 8-bit, from a run's resolved config; () if no run
    made it.
    """
    data = config.get("data")
    return tuple(data.get("range", RANGE_BEFORE)) if isinstance(data, Mapping) else ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts on the training data that a `Spec` needs, which so can be made without the data."""

    name: str
    examples: int
    classes: int
    channels: int = 3
    streams: tuple[Stream, ...] = ()
    vocabulary: int = BYTES.vocabulary


def make_spec(train: TrainConfig, facts: Facts) -> Spec:
    """Build the spec of a run on such data.

    Raises:
      UserError: fewer examples than a batch.
    """
    if facts.examples < train.batch_size:
        most = 2 ** max(facts.examples.bit_length() - 1, 0)
        raise UserError(
            f"train.batch_size: {train.batch_size} is more than the {facts.examples} examples of "
            f"{facts.name}; set --config.train.batch_size={most}, or less"
        )
    epoch = facts.examples // train.batch_size
    return Spec(
        global_batch=train.batch_size,
        num_examples=facts.examples,
        num_classes=facts.classes,
        steps_per_epoch=epoch,
        total_steps=train.steps or max(round(train.epochs * epoch), 1),
        channels=facts.channels,
        streams=facts.streams,
        vocabulary=facts.vocabulary,
    )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Resolved run: its sections as checked dataclasses, and what is built from them on demand."""

    raw: Mapping[str, Any]
    sections: Mapping[str, Any]
    folder: Path | None = None
    devices: Sequence[Any] | None = None

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        folder: Path | None = None,
        devices: Sequence[Any] | None = None,
    ) -> "Experiment":
        """Check every section of a config file, or of a workdir's config.json.

        `folder` is the workdir: a tokenizer that was saved there is used. The mesh consists of
        `devices`, by default of all devices.

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
        return cls(config, sections, folder, devices)

    @classmethod
    def of_run(cls, folder: Path) -> "Experiment":
        """Open the run in `folder` for reading, on the available devices, however many it was
        trained on.

        Raises:
          UserError: no such run, or an invalid config.
        """
        run = cls.from_config(workdir.read_config(folder), folder)
        mesh = sharding.fitting(run.sections["mesh"], jax.devices())
        return cls(run.raw, {**run.sections, "mesh": mesh}, folder)

    @property
    def data(self) -> DataConfig:
        return self.sections["data"]

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
    def source(self) -> Source:
        """Training set."""
        return subset.fraction(self.evals_source, self.data.fraction)

    @cached_property
    def evals_source(self) -> Source:
        """Training set of evaluations: `source` before `data.fraction`."""
        source = self._opened
        if self.survey.value_range:
            source.read_in(self.survey.value_range)
        if self.data.cache == "device":
            check_in_memory(source)
        return source

    @cached_property
    def _opened(self) -> Source:
        """Training set of evaluations, before the range of its pixels is set."""
        if not self.data.train:
            raise UserError(
                "no training data; set it, --data=folder:/path (docs/data.md lists all kinds)"
            )
        source = self._folds[0] if self.data.fold else open_source(self.data.train, "train")
        if self.data.labelled:
            source = subset.labelled(source, self.data.labelled, self.data.draw)
        return source

    @cached_property
    def survey(self) -> Survey:
        """Range and bands of the pixels: those of the existing run, else from a sample of the
        images, the same in all processes.
        """
        old = self._existing
        if old is not None and self.data.range not in ((), range_of(old)):
            old = None  # another range is set
        channels = int(old["spec"].get("channels", 3)) if old else 3
        if old and ("spec" in self.raw or "range" in old.get("data", {})):
            return Survey(range_of(old), channels)
        look = functools.partial(survey, self._opened, self.data.channels, self.data.range)
        facts = distributed.agreed(lambda: dataclasses.asdict(look()))
        if old:  # begun before there was `data.range`
            return Survey(RANGE_BEFORE if facts["value_range"] else (), channels)
        return Survey(tuple(facts["value_range"]), facts["bands"], tuple(facts["lines"]))

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

    def opened(self, data: str, split: Literal["train", "eval"]) -> Source:
        """Open another data set with the run's pixel range; if that is 8-bit, with its own."""
        return read_alike(open_source(data, split), self.survey.value_range)

    @cached_property
    def _folds(self) -> tuple[Source, Source]:
        train = open_source(self.data.train, "train")
        return subset.fold(train, self._named_eval_source, self.data.fold)

    @cached_property
    def streams(self) -> dict[str, Source]:
        """Additional training sets, by name."""
        if self.data.streams and self.data.cache == "device":
            raise UserError("data.cache=device excludes data.streams; use data.cache=none")
        return {name: self.opened(data, "train") for name, data in self.data.streams.items()}

    @cached_property
    def eval_source(self) -> Source | None:
        """Evaluation set: the configured one, or what the training data hold out; with `data.fold`
        its part of both sets.
        """
        source = self._folds[1] if self.data.fold else self._named_eval_source
        if source is not None and self.survey.value_range:
            source.read_in(self.survey.value_range)
        return source

    @property
    def _named_eval_source(self) -> Source | None:
        if self.data.eval:
            return open_source(self.data.eval, "eval")
        return held_out(self.data.train)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the captions: the one saved in the run's folder, else the config's."""
        saved = self.folder / TOKENIZER if self.folder else None
        if self.data.tokenizer and saved and saved.is_file() and workdir.started(saved.parent):
            return from_json(saved.read_text(), str(saved))
        captions = self.source.captions if self.data.tokenizer.startswith("train:") else None
        return open_tokenizer(self.data.tokenizer, captions)

    def keep_tokenizer(self, folder: Path) -> None:
        """Save the tokenizer once, except that of bytes, so that its file may move or change."""
        exists = (folder / TOKENIZER).is_file() and workdir.started(folder)
        if self.tokenizer is not BYTES and not exists:
            files.write_text(folder / TOKENIZER, self.tokenizer.json)

    @cached_property
    def spec(self) -> Spec:
        if "spec" in self.raw:  # an existing run, whose data may be elsewhere
            return checked.build(Spec, self.raw["spec"], "spec")
        return make_spec(self.train, self.facts)

    @cached_property
    def facts(self) -> Facts:
        """Facts on the data that the config names."""
        return Facts(
            self.source.name,
            len(self.source),
            self.source.num_classes,
            num_channels(self.source, self.data.channels, self.survey.bands),
            tuple(
                Stream(name, len(stream), stream.num_classes)
                for name, stream in self.streams.items()
            ),
            self.tokenizer.vocabulary,
        )

    @property
    def backbone_name(self) -> str:
        """Name of the backbone in `nets.backbones`."""
        name: str = self.raw.get("backbone", {}).get("name", nets.DEFAULT)
        return name

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Name of the backbone, and those of its options that differ from their defaults."""
        return {"name": self.backbone_name} | self._backbone.changes()

    @property
    def _backbone(self) -> nets.Backbone:
        options = {k: v for k, v in self.raw.get("backbone", {}).items() if k != "name"}
        return nets.backbone_config(self.backbone_name, options)

    @cached_property
    def method(self) -> Objective:
        hyper = dict(self.raw.get("objective", {}))
        method = load_method(hyper.pop("name", ""), self.folder)
        backbone = self._backbone.net(self.spec.channels)
        objective = method.make(backbone, self.spec, **settle_objective(method.make, hyper))
        check_streams(objective.inputs(), self.data.streams)
        recipes.check(objective.inputs())
        return objective

    @property
    def probed(self) -> bool:
        """True if the config has an online probe and the data have labels."""
        return self.train.online_probe is not None and self.spec.num_classes > 0

    @cached_property
    def objective(self) -> Objective:
        """The training objective: the method, wrapped in an online probe if there is one."""
        if not self.probed:
            return self.method
        return OnlineProbe.around(self.method, self.train.online_probe or 0.0)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.sections["mesh"], self.devices)

    def check_batch(self) -> None:
        """Check the batch size before training.

        Raises:
          UserError: the batch is not divisible by the number of devices, or too small for the
            method.
        """
        least = self.method.least_batch
        if self.train.batch_size < least:
            raise UserError(
                f"train.batch_size: {self.raw['objective']['name']} compares the images of a batch "
                f"and learns nothing from {self.train.batch_size}; set {least} or more"
            )
        if self.train.batch_size % self.mesh.size:
            raise UserError(
                f"train.batch_size: {self.train.batch_size} is not divisible by "
                f"{self.mesh.size} devices"
            )

    def check_used(self, keys: Collection[str]) -> None:
        """Check that each key "section.key" that the user sets for a run has an effect.

        Raises:
          UserError: a key has none.
        """
        for key in keys:
            section, *path = key.split(".")
            at: Any = self.method if section == "objective" else self.sections.get(section)
            for name in path[:-1]:
                entry = isinstance(at, tuple) and name.isdecimal()
                at = at[int(name)] if entry else getattr(at, name, None)
            where = ".".join((section, *path[:-1]))
            if path and dataclasses.is_dataclass(at):
                checked.check_used(at, where, path[-1:])
            if (
                isinstance(at, View)
                and path[-1] == "strength"
                and not recipes.recipe(at.recipe).scalable
            ):
                raise UserError(
                    f"{where}.strength: {at.strength} would change nothing: the recipe "
                    f"{recipes.title(at.recipe)!r} has no distortion to scale"
                )

    @property
    def _rows(self) -> np.ndarray:
        """Rows of a global batch that this process reads."""
        if jax.process_count() == 1:
            return np.arange(self.spec.global_batch)
        return sharding.local_rows(self.mesh, self.spec.global_batch)

    @cached_property
    def _optimizer(self) -> tuple[optax.GradientTransformationExtraArgs, Any]:
        params, _ = jax.eval_shape(self.objective.init, jax.random.key(0))
        return make_optimizer(
            self.sections["optim"],
            params,
            self.objective.groups(),
            batch_size=self.spec.global_batch,
            total_steps=self.spec.total_steps,
            steps_per_epoch=self.spec.steps_per_epoch,
            decays=self.method.decays,
            backbone=self._backbone,
        )

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        return self._optimizer[0]

    @property
    def schedule(self) -> Any:
        """Learning rate as a function of the step."""
        return self._optimizer[1]

    @cached_property
    def abstract_state(self) -> state.TrainState:
        return state.abstract(self.objective, self.tx)

    @cached_property
    def placed(self) -> state.TrainState:
        """The sharding of every leaf of the state."""
        return state.shardings(self.abstract_state, self.sections["mesh"], self.mesh)

    def fresh_state(self, loaded: state.InitialWeights | None = None) -> state.TrainState:
        """Create the state that training starts from; `loaded` weights replace random ones."""
        return state.create(self.objective, self.tx, self.train.seed, self.placed, loaded)

    def batches(self, start: int, stop: int, boxes_only: bool = False) -> Batches:
        """Return this host's part of the training batches of steps `start` to `stop - 1`."""
        data = self.data
        return batches(
            self.source,
            self.objective.inputs(),
            global_batch=self.spec.global_batch,
            seed=self.train.seed,
            start_step=start,
            stop_step=stop,
            rows=self._rows,
            threads=data.threads,
            prefetch=data.prefetch,
            max_bad_fraction=data.max_bad_fraction,
            channels=self.spec.channels,
            boxes_only=boxes_only,
            streams=self.streams,
            tokenizer=self.tokenizer,
        )

    def training_batches(self, start: int, stop: int) -> tuple[Batches, Iterator[Batch]]:
        """Return the batches of steps `start` to `stop - 1` twice: this host's part, as it is read,
        and the global batches made from it, prefetched to the devices.
        """
        cached = self.data.cache == "device"
        host = self.batches(start, stop, boxes_only=cached)
        rows, everywhere = sharding.batch_sharding(self.mesh), sharding.replicated(self.mesh)
        placed = prefetch_to_device(host, rows)
        if not cached:
            return host, placed
        sets = replicate(host.sets(), everywhere)
        take = functools.partial(take_views, self.objective.inputs())
        cut = jax.jit(take, in_shardings=(everywhere, rows), out_shardings=rows)
        return host, (cut(sets, batch) for batch in placed)

    def examples(self) -> Iterator[Batch]:
        """Iterate over this host's part of all training examples in order, center-cropped to the
        size of the first view: `images` uint8 and `index`, -1 for padding, in batches of the
        training batch size.
        """
        batch = self.spec.global_batch
        arrays = eval_arrays(
            self.source,
            self.objective.inputs().views[0].size,
            rows=local_part(np.arange(self.spec.num_examples), batch, self._rows),
            channels=self.spec.channels,
            batch=len(self._rows),
            threads=self.data.threads,
            max_bad_fraction=self.data.max_bad_fraction,
        )
        return ({"images": images, "index": index} for images, index in arrays)

    def resolved(self) -> dict[str, Any]:
        """Return the config with every default filled in, as plain JSON values."""
        out = {name: dataclasses.asdict(section) for name, section in self.sections.items()}
        fields = {f.name for f in dataclasses.fields(self.method)} - {"backbone", "spec"}
        out["objective"] = {"name": self.raw["objective"]["name"]}
        out["objective"] |= {f: _plain(getattr(self.method, f)) for f in sorted(fields)}
        out["backbone"] = {"name": self.backbone_name} | dataclasses.asdict(self._backbone)
        out["spec"] = dataclasses.asdict(self.spec)
        if "spec" not in self.raw:
            out["data"]["range"] = self.survey.value_range
        return json.loads(json.dumps(out))

    def defaults(self) -> dict[str, Any]:
        """Return the default of each key of `resolved`, likewise."""
        out = {name: checked.defaults(type(section)) for name, section in self.sections.items()}
        out["objective"] = checked.defaults(type(self.method))
        own = checked.defaults(nets.backbone_class(self.backbone_name))
        out["backbone"] = {"name": nets.DEFAULT} | own
        if self._existing is not None:  # of a config.json or checkpoint from before `data.range`
            out["data"]["range"] = RANGE_BEFORE if self.survey.value_range else ()
        return json.loads(json.dumps(out, default=dataclasses.asdict))


def _plain(value: Any) -> Any:
    if isinstance(value, View):
        value = recipes.portable(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
