"""`Experiment`: the program that a config describes, built on demand: method, optimizer, mesh,
state and batches; used by every subcommand that needs a model or data.
"""

import dataclasses
import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import optax

from ssl_jax import nets
from ssl_jax.augment import recipes
from ssl_jax.augment.crop import take_views
from ssl_jax.control.acting import ActingLoop
from ssl_jax.core import config as checked
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import prefetch_to_device, replicate
from ssl_jax.data.pipeline import (
    Batch,
    Batches,
    batches,
    check_masks,
    check_one_label,
    check_streams,
    eval_arrays,
    local_part,
)
from ssl_jax.data.sources.control import EnvironmentSource
from ssl_jax.objectives.base import Objective, Spec
from ssl_jax.optim.factory import make_optimizer
from ssl_jax.run import acting
from ssl_jax.run.configs import load_method
from ssl_jax.run.datasets import RANGE_BEFORE, Datasets, make_spec
from ssl_jax.run.sections import settle_objective, stored_key
from ssl_jax.training import state, workdir
from ssl_jax.training.online_probe import OnlineProbe


@dataclasses.dataclass(frozen=True)
class Experiment(Datasets):
    """Everything that a config describes: its sections (`ResolvedConfig`), its data (`Datasets`)
    and the program built from them. The mesh consists of `devices`, by default of all devices.
    """

    devices: Sequence[Any] | None = None

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        folder: Path | None = None,
        devices: Sequence[Any] | None = None,
    ) -> Self:
        """Check a config, see `ResolvedConfig.from_config`."""
        return dataclasses.replace(super().from_config(config, folder), devices=devices)

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """Open the run in `folder` for reading, on the available devices, however many it was
        trained on.

        Raises:
          UserError: no such run, or an invalid config.
        """
        run = cls.from_config(workdir.read_config(folder), folder)
        mesh = sharding.fitting(run.sections["mesh"], jax.devices())
        return cls(run.raw, {**run.sections, "mesh": mesh}, folder)

    @cached_property
    def spec(self) -> Spec:
        if "spec" in self.raw:  # an existing run, whose data may be elsewhere
            return checked.build(Spec, self.raw["spec"], "spec")
        return make_spec(self.train, self.facts)

    @property
    def backbone_name(self) -> str:
        """Name of the backbone in `nets.backbones`, or the path of its file."""
        return str(self.raw.get("backbone", {}).get("name", nets.DEFAULT))

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Name of the backbone, and those of its options that differ from their defaults; all of
        them for a file of the user's own, whose defaults may change.
        """
        made = self._backbone
        own = dataclasses.asdict(made) if nets.is_file(self.backbone_name) else made.changes()
        return {"name": self.backbone_name} | own

    @property
    def _backbone(self) -> nets.Backbone:
        options = {k: v for k, v in self.raw.get("backbone", {}).items() if k != "name"}
        return nets.backbone_config(self.backbone_name, options, self.folder)

    @cached_property
    def method(self) -> Objective:
        hyper = dict(self.raw.get("objective", {}))
        method = load_method(hyper.pop("name", ""), self.folder)
        parts = self.train.accumulate
        if parts > 1 and hyper.setdefault("microbatches", parts) != parts:
            raise UserError(
                f"train.accumulate={parts} and objective.microbatches={hyper['microbatches']}: "
                "these are the same setting; leave objective.microbatches out"
            )
        backbone = self._backbone.net(self.spec.channels)
        objective = method.make(backbone, self.spec, **settle_objective(method.make, hyper))
        check_streams(objective.inputs(), self.data.streams)
        check_masks(objective.inputs(), self.data.masks)
        recipes.check(objective.inputs())
        if "spec" not in self.raw:
            acting.check(objective.inputs(), self.source)
            check_one_label(objective.inputs(), self.source)
        recipes.check_own(objective, objective.inputs())
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
          UserError: the batch is not divisible by the number of devices, or that part of it by
            the number of parts, or it is too small for the method.
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
        rows, parts = self.train.batch_size // self.mesh.size, self.train.accumulate
        if rows % parts:
            raise UserError(
                f"train.accumulate: {parts} parts do not divide the {rows} images per device of "
                f"train.batch_size {self.train.batch_size}; set a divisor of {rows}"
            )

    def check_used(self, keys: Collection[str]) -> None:
        """Check that each key "section.key" that the user sets for a run has an effect.

        Raises:
          UserError: a key has none.
        """
        for key in map(stored_key, keys):
            section, *path = key.split(".")
            at: Any = self.method if section == "objective" else self.sections.get(section)
            for name in path[:-1]:
                entry = isinstance(at, tuple) and name.isdecimal()
                at = at[int(name)] if entry else getattr(at, name, None)
            where = ".".join((section, *path[:-1]))
            if section == "control" and not self.acts:
                raise UserError(f"{key}: would change nothing: the data are no environment")
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
            backbone=self.method.backbone.config,
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

    def batches(
        self, start: int, stop: int, boxes_only: bool = False, rows: np.ndarray | None = None
    ) -> Batches:
        """Return this host's part of the training batches of steps `start` to `stop - 1`, or their
        `rows`.

        Raises:
          UserError: the data are an environment, where a batch depends on what was done before.
        """
        data = self.data
        if self.acts:
            raise UserError(
                f"{data.train}: an environment has no batches before a run acts in it; use a data "
                "set of images"
            )
        return batches(
            self.source,
            self.objective.inputs(),
            global_batch=self.spec.global_batch,
            seed=self.train.seed,
            start_step=start,
            stop_step=stop,
            rows=self._rows if rows is None else rows,
            threads=data.threads,
            prefetch=data.prefetch,
            max_bad_fraction=data.max_bad_fraction,
            channels=self.spec.channels,
            boxes_only=boxes_only,
            streams=self.streams,
            tokenizer=self.tokenizer,
            masks=data.masks,
        )

    @property
    def acts(self) -> bool:
        """True if the data are an environment, in which the method acts."""
        return self.spec.actions > 0

    def training_batches(
        self, start: int, stop: int
    ) -> tuple[Batches | ActingLoop, Iterator[Batch]]:
        """Return the batches of steps `start` to `stop - 1` twice: this host's part, as it is read,
        and the global batches made from it, prefetched to the devices. A batch from an environment
        is made when it is needed, after what the newest state does there.
        """
        source = self.source
        if isinstance(source, EnvironmentSource):
            assert self.folder is not None
            loop = acting.acting_loop(source, self.method, self.folder, self.train.seed, start)
            return loop, prefetch_to_device(loop, sharding.batch_sharding(self.mesh), depth=1)
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
        out["evals"] = self.evals.in_use()
        fields = {f.name for f in dataclasses.fields(self.method)} - {"backbone", "spec"}
        hints = checked.types_of(type(self.method))
        out["objective"] = {"name": self.raw["objective"]["name"]}
        out["objective"] |= {f: _plain(getattr(self.method, f), hints[f]) for f in sorted(fields)}
        out["backbone"] = {"name": self.backbone_name} | dataclasses.asdict(self._backbone)
        out["spec"] = dataclasses.asdict(self.spec)
        if not self.acts:
            del out["spec"]["actions"]  # as in the runs of versions without environments
        if "spec" not in self.raw:
            out["data"]["range"] = self.survey.value_range
        return json.loads(json.dumps(out))

    def defaults(self) -> dict[str, Any]:
        """Return the default of each key of `resolved`, likewise."""
        out = {name: checked.defaults(type(section)) for name, section in self.sections.items()}
        out["objective"] = checked.defaults(type(self.method))
        own = checked.defaults(nets.backbone_class(self.backbone_name, self.folder))
        out["backbone"] = {"name": nets.DEFAULT} | own
        if self._existing is not None:  # of a config.json or checkpoint from before `data.range`
            out["data"]["range"] = RANGE_BEFORE if self.survey.value_range else ()
        return json.loads(json.dumps(out, default=dataclasses.asdict))


def _plain(value: Any, hint: Any = Any) -> Any:
    """Convert the value of a field of the type `hint` to plain values, as a run stores it."""
    if isinstance(value, str) and recipes.is_chain(hint):
        value = recipes.portable(value)
    if isinstance(value, View):
        value = dataclasses.replace(value, recipe=recipes.portable(value.recipe))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
