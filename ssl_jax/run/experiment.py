"""From a config to everything a run is made of; used by every subcommand that needs a model or
data.
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
from ssl_jax.evals.online import OnlineProbe
from ssl_jax.objectives.base import Objective, Spec, Stream
from ssl_jax.optim.factory import make_optimizer
from ssl_jax.run.configs import NAMES, load_method
from ssl_jax.run.sections import SECTIONS, settle_objective
from ssl_jax.train import state, workdir
from ssl_jax.train.checkpoint import CheckpointConfig
from ssl_jax.train.loop import TrainConfig

RANGE_BEFORE = (0.0, 65535.0)  # of wide pixels in runs of versions without `data.range`
TOKENIZER = "tokenizer.json"  # in the folder of a run


def range_of(config: Mapping[str, Any]) -> tuple[float, ...]:
    """The range of pixels that are not 8-bit, of a run's resolved config; () where none made it."""
    data = config.get("data")
    return tuple(data.get("range", RANGE_BEFORE)) if isinstance(data, Mapping) else ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a `Spec` takes from the training data, so that it can be made without them too."""

    name: str
    examples: int
    classes: int
    channels: int = 3
    streams: tuple[Stream, ...] = ()
    vocabulary: int = BYTES.vocabulary


def make_spec(train: TrainConfig, facts: Facts) -> Spec:
    """The spec of a run on data like these.

    Raises:
      UserError: they are fewer than a batch.
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
    """One run, resolved: its sections as checked dataclasses, and what is built from them, when
    asked for.
    """

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

        `folder` is the workdir: a tokenizer that was kept there is the one that is used. The mesh
        is made of `devices`, by default of all that are here.

        Raises:
          UserError: an unknown section or key, a value of the wrong type, or a password in one.
        """
        credentials.refuse(config, "")
        for section in config:
            if section not in (*NAMES, "spec"):
                raise UserError(f"unknown config section {section!r}; {suggest(section, NAMES)}")
            if not isinstance(config[section], Mapping):
                raise UserError(f"config section {section!r} holds {config[section]!r}, not keys")
        sections: dict[str, Any] = {
            name: checked.build(kind, config.get(name, {}), name) for name, kind in SECTIONS.items()
        }
        return cls(config, sections, folder, devices)

    @classmethod
    def of_run(cls, folder: Path) -> "Experiment":
        """The run in `folder`, to look at what it made: on the devices that are here, however many
        it is trained on.

        Raises:
          UserError: there is no run, or its config cannot be used.
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
        """What the run trains on."""
        return subset.fraction(self.evals_source, self.data.fraction)

    @cached_property
    def evals_source(self) -> Source:
        """What evaluations learn from."""
        source = self._opened
        if self.survey.value_range:
            source.read_in(self.survey.value_range)
        if self.data.cache == "device":
            check_in_memory(source)
        return source

    @cached_property
    def _opened(self) -> Source:
        """What evaluations learn from, before it is known how its pixels are read."""
        if not self.data.train:
            raise UserError(
                "no training data: name it, --data=folder:/path (docs/data.md lists what is read)"
            )
        source = self._folds[0] if self.data.fold else open_source(self.data.train, "train")
        if self.data.labelled:
            source = subset.labelled(source, self.data.labelled, self.data.draw)
        return source

    @cached_property
    def survey(self) -> Survey:
        """How pixels are read: as the run that exists reads them, else by a look at some images,
        the same in all processes.
        """
        old = self._existing
        if old is not None and self.data.range not in ((), range_of(old)):
            old = None  # another range is set
        channels = int(old["spec"].get("channels", 3)) if old else 3
        if old and ("spec" in self.raw or "range" in old.get("data", {})):
            return Survey(range_of(old), channels)
        look = functools.partial(survey, self._opened, self.data.channels, self.data.range)
        found = distributed.agreed(lambda: dataclasses.asdict(look()))
        if old:  # begun before there was `data.range`
            return Survey(RANGE_BEFORE if found["value_range"] else (), channels)
        return Survey(tuple(found["value_range"]), found["bands"], tuple(found["lines"]))

    @cached_property
    def _existing(self) -> Mapping[str, Any] | None:
        """The resolved config of the run that this is, or goes on with."""
        if "spec" in self.raw:
            return self.raw
        if self.folder is None or not (self.folder / "config.json").is_file():
            return None
        old = workdir.read_config(self.folder)
        same = old.get("data", {}).get("train") == self.data.train
        return old if same and "spec" in old else None

    def opened(self, data: str, split: Literal["train", "eval"]) -> Source:
        """Another data set, whose pixels are read as those of the run; if these are 8-bit, in its
        own range.
        """
        return read_alike(open_source(data, split), self.survey.value_range)

    @cached_property
    def _folds(self) -> tuple[Source, Source]:
        train = open_source(self.data.train, "train")
        return subset.fold(train, self._named_eval_source, self.data.fold)

    @cached_property
    def streams(self) -> dict[str, Source]:
        """The further training sets, by name."""
        if self.data.streams and self.data.cache == "device":
            raise UserError("data.cache=device does not go with data.streams; use data.cache=none")
        return {name: self.opened(data, "train") for name, data in self.data.streams.items()}

    @cached_property
    def eval_source(self) -> Source | None:
        """The evaluation set: the one named, or what the training data themselves hold out; of both
        sets a part with `data.fold`.
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
        """Of the captions: the one kept in the run's folder, else the one that the config names."""
        kept = self.folder / TOKENIZER if self.folder else None
        if self.data.tokenizer and kept and kept.is_file() and workdir.started(kept.parent):
            return from_json(kept.read_text(), str(kept))
        captions = self.source.captions if self.data.tokenizer.startswith("train:") else None
        return open_tokenizer(self.data.tokenizer, captions)

    def keep_tokenizer(self, folder: Path) -> None:
        """Write it there once, unless it is that of bytes, so that its file may move or change."""
        there = (folder / TOKENIZER).is_file() and workdir.started(folder)
        if self.tokenizer is not BYTES and not there:
            files.write_text(folder / TOKENIZER, self.tokenizer.json)

    @cached_property
    def spec(self) -> Spec:
        if "spec" in self.raw:  # a run that exists: its data need not be at hand
            return checked.build(Spec, self.raw["spec"], "spec")
        return make_spec(self.train, self.facts)

    @cached_property
    def facts(self) -> Facts:
        """Of the data that the config names."""
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

    @cached_property
    def method(self) -> Objective:
        hyper = dict(self.raw.get("objective", {}))
        method = load_method(hyper.pop("name", ""), self.folder)
        arch = dict(self.raw.get("backbone", {}))
        backbone = nets.make_backbone(arch.pop("name", "resnet"), self.spec.channels, arch)
        made = method.make(backbone, self.spec, **settle_objective(method.make, hyper))
        check_streams(made.inputs(), self.data.streams)
        recipes.check(made.inputs())
        return made

    @property
    def probed(self) -> bool:
        """Whether a classifier is trained along: the config says so, and the data have labels."""
        return self.train.online_probe is not None and self.spec.num_classes > 0

    @cached_property
    def objective(self) -> Objective:
        """What is trained: the method, with an online probe around it where there is one."""
        if not self.probed:
            return self.method
        return OnlineProbe.around(self.method, self.train.online_probe or 0.0)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.sections["mesh"], self.devices)

    def check_batch(self) -> None:
        """Before it is trained.

        Raises:
          UserError: the batch does not divide by the devices, or the method learns nothing from one
            so small.
        """
        least = self.method.least_batch
        if self.train.batch_size < least:
            raise UserError(
                f"train.batch_size: {self.raw['objective']['name']} compares the images of a batch "
                f"and learns nothing from {self.train.batch_size}; give {least} or more"
            )
        if self.train.batch_size % self.mesh.size:
            raise UserError(
                f"train.batch_size: {self.train.batch_size} does not divide by the "
                f"{self.mesh.size} devices"
            )

    def check_used(self, keys: Collection[str]) -> None:
        """Of the keys "section.key" that are given for a run, whether each changes anything.

        Raises:
          UserError: one does not.
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
                    f"{recipes.title(at.recipe)!r} has no distortion that it multiplies"
                )

    @property
    def _rows(self) -> np.ndarray:
        """Which rows of a global batch this process makes."""
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
        )

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        return self._optimizer[0]

    @property
    def schedule(self) -> Any:
        """step -> learning rate."""
        return self._optimizer[1]

    @cached_property
    def abstract_state(self) -> state.TrainState:
        return state.abstract(self.objective, self.tx)

    @cached_property
    def placed(self) -> state.TrainState:
        """The sharding of every leaf of the state."""
        return state.shardings(self.abstract_state, self.sections["mesh"], self.mesh)

    def fresh_state(self, given: state.InitialWeights | None = None) -> state.TrainState:
        """The state that training starts from; `given` weights replace random ones."""
        return state.create(self.objective, self.tx, self.train.seed, self.placed, given)

    def batches(self, start: int, stop: int, boxes_only: bool = False) -> Batches:
        """This host's part of the training batches of steps `start` to `stop - 1`."""
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
        """The batches of steps `start` to `stop - 1`: this host's part, as it is read, and the
        global ones on the devices, ahead of the steps, which are made from it.
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
        """This host's part of all training examples in order, centrally cropped to the first view:
        `images` uint8 and `index`, -1 for filling, in batches as large as those of training.
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
        """The config with every default filled in, as plain JSON values."""
        out = {name: dataclasses.asdict(section) for name, section in self.sections.items()}
        fields = {f.name for f in dataclasses.fields(self.method)} - {"backbone", "spec"}
        out["objective"] = {"name": self.raw["objective"]["name"]}
        out["objective"] |= {f: _plain(getattr(self.method, f)) for f in sorted(fields)}
        out["backbone"] = {"name": "resnet"} | dict(self.raw.get("backbone", {}))
        out["spec"] = dataclasses.asdict(self.spec)
        if "spec" not in self.raw:
            out["data"]["range"] = self.survey.value_range
        return json.loads(json.dumps(out))

    def defaults(self) -> dict[str, Any]:
        """What keys of `resolved` are where nothing is said, likewise."""
        out = {name: checked.defaults(type(section)) for name, section in self.sections.items()}
        out["objective"] = checked.defaults(type(self.method))
        if self._existing is not None:  # of a config.json or checkpoint from before `data.range`
            out["data"]["range"] = RANGE_BEFORE if self.survey.value_range else ()
        return json.loads(json.dumps(out, default=dataclasses.asdict))


def _plain(value: Any) -> Any:
    if isinstance(value, View):
        value = recipes.portable(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
