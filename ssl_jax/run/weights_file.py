"""A weights file in the place of a run: its encoder, and the experiment for `evaluate` and
`report`.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from ssl_jax.augment.recipes import RECIPES, recipe
from ssl_jax.core import config as checked
from ssl_jax.core import hub, sharding, tree
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View, sides
from ssl_jax.core.plain import from_json
from ssl_jax.core.tree import Tree
from ssl_jax.data import levels
from ssl_jax.data.survey import Survey, survey
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.objectives import base as objectives
from ssl_jax.objectives.base import Objective, Probe
from ssl_jax.run import orbax_export
from ssl_jax.run.configs import override
from ssl_jax.run.datasets import range_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.flags import CommonFlags, Override
from ssl_jax.training import workdir
from ssl_jax.weights import conversion, files, folders, huggingface, networks
from ssl_jax.weights.networks import Weights

SIZE = 224  # of images, if a file does not say
LARGEST = 8192  # largest image side that a file may specify
STEP = 0  # step of a weights file
NAME = "weights"  # in the place of a method's name


@dataclass(frozen=True, kw_only=True)
class EncoderFlags(CommonFlags):
    """Flags of subcommands that read the network of a run, or of a weights file in its place."""

    weights: Path | None = flag(
        "a weights file in the place of a run, ours or a public one, or hf://USER/NAME "
        "(docs/weights.md)",
        None,
    )
    overrides: tuple[Override, ...] = flag(
        "what the --weights file does not specify: --config.backbone.heads=12",
        (),
        shown="config.backbone.KEY",
    )

    @property
    def backbone(self) -> dict[str, Any]:
        """The section `backbone` of the --config.backbone.KEY=VALUE flags.

        Raises:
          UserError: a key of another section, or flags without --weights.
        """
        config: dict[str, Any] = {}
        override(config, self.overrides)
        others = [key for key, _ in self.overrides if not key.startswith("backbone.")]
        if others or (self.overrides and not self.weights):
            key = (others or [self.overrides[0][0]])[0]
            raise UserError(f"--config.{key}: only --config.backbone.KEY is read, with --weights")
        return config.get("backbone", {})


@dataclass(frozen=True, kw_only=True)
class MeasurementFlags(EncoderFlags):
    """Flags of subcommands that measure runs, or a weights file, on data sets."""

    workdir: str = flag("folder of the run; several separated by commas or as 'runs/*'", "")
    data: str = flag("training images; by default the run's own", "")
    eval_data: str = flag(
        "evaluation images; by default the run's own, or what --data holds out", ""
    )

    @property
    def folders(self) -> list[Path]:
        """The folders of --workdir; [] with --weights.

        Raises:
          UserError: neither is set, or no run matches a pattern.
        """
        if self.weights:
            return []
        if not self.workdir:
            raise UserError(
                "--workdir is missing: name the folder of a run, --workdir=W, or a file, "
                "--weights=F"
            )
        return workdir.named(self.workdir)


def place(workdir: Path | None, weights: Path | None) -> Path:
    """Return what a subcommand reads: the folder of a run, or a weights file in its place.

    Raises:
      UserError: neither or both are set.
    """
    path = workdir or weights
    if path is None or (workdir and weights):
        raise UserError("set either --workdir=W, the folder of a run, or --weights=F, a file")
    return path


def encoder(
    path: Path, mesh: jax.sharding.Mesh, backbone: Mapping[str, Any] | None
) -> ImageEncoder:
    """Read the encoder from a weights file, ours or a public one, or from an exported Orbax folder.

    A file that does not specify its preprocessing gets that of most public ones: 224 pixels, or the
    size that its position embeddings are for, and ImageNet's mean and deviation, CLIP's for CLIP.
    Its features are the network's own output.
    """
    file = orbax_export.read_any(path)
    weights = networks.of_file(file, str(path), backbone)
    params, stats = jax.device_put(weights.variables(), sharding.replicated(mesh))
    view, probe, settings = preprocessing(weights, normalization(file, path))
    bare = objectives.Encoder(params, stats, weights.net)
    encoder = ImageEncoder.of(bare, view, probe, weights.channels, settings, weights.taken)
    encoder.feature_shape  # noqa: B018 (raises if the layer does not exist)
    return encoder


def preprocessing(weights: Weights, usual: str) -> tuple[View, Probe, dict[str, Any]]:
    """Return the network's input view, the layer to read and the config, from the metadata; `usual`
    is the recipe if they name none.

    Raises:
      UserError: metadata of other types or with invalid values.
    """
    backbone = dict(weights.backbone)
    try:
        view_data, probe_data, config = (
            from_json(weights.metadata.get(name, "{}"))
            for name in ("preprocessing", "probe", "config")
        )
        size = view_data.get("size") or backbone.get("image_size") or SIZE
        size = int(size) if isinstance(size, (int, float, str)) else tuple(map(int, size))
        if not all(1 <= side <= LARGEST for side in sides(size)):
            raise ValueError(f"images of {size} pixels; expected 1 to {LARGEST}")
        own = {"size": size, "recipe": view_data.get("recipe", usual)}
        view = checked.build(View, own, "preprocessing")
        stage, pool = probe_data.get("stage"), probe_data.get("pool")
        probe = Probe(pool="pooled").at(
            None if stage is None else int(stage), None if pool is None else str(pool)
        )
        settings = dict(config) or {"backbone": backbone}
        levels.check(range_of(settings))
    except (ValueError, TypeError, AttributeError, OverflowError) as e:
        raise UserError(f"{weights.name}: invalid metadata: {e}") from None
    recipe(view.recipe)  # raises if it is unknown
    return view, probe, settings


def normalization(file: files.TensorFile, path: Path) -> str:
    """Return the recipe whose mean and deviation are those beside a file, or the usual ones.

    Raises:
      UserError: no recipe has them.
    """
    try:
        statistics = huggingface.statistics(file.beside)
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    if statistics is None:
        clip = any(name.endswith(("ln_pre.weight", "pre_layrnorm.weight")) for name in file.tensors)
        return "normalize_clip" if clip else "normalize"
    for name in sorted(RECIPES, key=lambda name: not name.startswith("normalize")):
        pairs = zip(statistics, (RECIPES[name].mean, RECIPES[name].std), strict=True)
        if all(np.allclose(np.broadcast_to(a, 3), b, atol=1e-3) for a, b in pairs):
            return name
    raise UserError(f"{path}: no recipe has its mean and deviation {statistics}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, as the Hugging Face hub shows it; of several files, of all
    their bytes.
    """
    if orbax_export.is_exported(path):
        paths = [p for p in sorted(path.rglob("*")) if p.is_file()]
    else:
        first = folders.weights_in(path)
        more = folders.parts(first) if first.name.endswith(folders.INDEX) else {}
        paths = [first, *sorted(more)]
    total = hashlib.sha256()
    for part in paths:
        with part.open("rb") as file:
            while block := file.read(2**22):
                total.update(block)
    return total.hexdigest()


def requested(
    flags: MeasurementFlags, of_runs: Sequence[str], needs_data: bool = True
) -> "FileExperiment | None":
    """Read the file that --weights names, on the data of --data; None without --weights.

    Args:
      of_runs: flags that are for runs only.
      needs_data: whether --data must be set.

    Raises:
      UserError: --weights together with one of `of_runs`, or without the data.
    """
    backbone, path = flags.backbone, flags.weights
    if path is None:
        return None
    for name in of_runs:
        if flags.is_set(name):
            raise UserError(f"--{name} is for runs; leave it out, or leave --weights out")
    if needs_data and not flags.data:
        raise UserError("--data is missing: name the images, --data=folder:/images")
    path = hub.model(path)
    if not orbax_export.is_weights(path):
        hint = "; name it with --workdir" if (path / "config.json").exists() else ""
        raise UserError(f"--weights={path}: not a weights file{hint}")
    return FileExperiment.read(path, backbone, flags.data, flags.eval_data)


@dataclass(frozen=True)
class Frozen(Objective):
    """A backbone that is measured and not trained."""

    view: View = View(SIZE)
    probe: Probe = Probe()  # type: ignore[misc]  # of the file, not of a class

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view,))


class State(NamedTuple):
    """The part of a `TrainState` that a network consists of."""

    params: Tree
    extra: Tree


@dataclass(frozen=True)
class FileExperiment(Experiment):
    """Experiment of a weights file, which needs no training: its network, on some data."""

    path: Path = Path()
    weights: Weights | None = None
    view: View = View(SIZE)
    probe: Probe = Probe()

    @classmethod
    def read(cls, path: Path, backbone: Mapping[str, Any], data: str, eval_data: str = "") -> Self:
        """Read a weights file.

        Raises:
          UserError: an unreadable file, or a network that ours cannot compute completely.
        """
        file = orbax_export.read_any(path)
        weights = networks.of_file(file, str(path), backbone)
        view, probe, settings = preprocessing(weights, normalization(file, path))
        spec = objectives.Spec(1, 1, 0, 1, 1, channels=weights.channels)
        config = {
            "objective": {"name": NAME},
            "backbone": dict(weights.backbone),
            "data": {"train": data, "eval": eval_data, "range": range_of(settings)},
            "train": {"steps": 1},
            "spec": {k: v for k, v in dataclasses.asdict(spec).items() if k != "streams"},
        }
        plain = Experiment.from_config(config)
        return cls(plain.raw, plain.sections, None, None, path, weights, view, probe)

    @cached_property
    def method(self) -> Objective:
        assert self.weights is not None
        return Frozen(self.weights.net, self.spec, view=self.view, probe=self.probe)

    @cached_property
    def survey(self) -> Survey:
        """Range and bands of the pixels: those of the run that wrote the file, else from a sample
        of the images.
        """
        if self.data.range:
            return Survey(self.data.range, self.spec.channels)
        return survey(self._opened, self.spec.channels)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Fields of a record that identify the file."""
        return {"weights": str(self.path.resolve()), "digest": digest(self.path)}

    @property
    def described(self) -> dict[str, str]:
        """Facts for the report, heading -> text."""
        assert self.weights is not None
        backbone = dict(self.weights.backbone)
        view, report = self.view, self.weights.report
        return {
            "file": str(self.path),
            "SHA-256": self.identity["digest"],
            "found": ", ".join(report.networks),
            "backbone": " ".join(
                [str(backbone.pop("name")), *(f"{k}={v}" for k, v in backbone.items())]
            ),
            "left in the file": conversion.few(report.skipped) or "nothing",
            "images": f"{view.size} px, {self.spec.channels} channels ({view.recipe})",
            "data": f"{self.data.train}; evaluation: {self.data.eval or 'held out of it'}",
            "parameters": f"{tree.count(self.abstract_state.params):,}",
        }

    @property
    def summary(self) -> str:
        """One line on what was loaded from the file and what was not."""
        assert self.weights is not None
        return self.weights.taken

    def checkpoints(self) -> "FileCheckpoints":
        """Return the only state of the file."""
        assert self.weights is not None
        return FileCheckpoints(self.weights)

    @cached_property
    def abstract_state(self) -> Any:
        return State(*jax.eval_shape(self.objective.init, jax.random.key(0)))

    @cached_property
    def placed(self) -> Any:
        where = sharding.replicated(self.mesh)
        return jax.tree.map(lambda _: where, self.abstract_state)

    def fresh_state(self, loaded: Any = None) -> Any:
        """Return the network with its initial weights, before any training."""
        init = jax.jit(lambda key: State(*self.objective.init(key)), out_shardings=self.placed)
        return init(jax.random.key(self.train.seed))


class FileCheckpoints:
    """The only state of a file, with the interface of `training.checkpoint.Checkpoints`."""

    def __init__(self, weights: Weights):
        self._weights = weights
        self.steps = [STEP]

    def __enter__(self) -> "FileCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def metadata(self, step: int) -> dict[str, Any]:
        return {}

    def restore(self, step: int, abstract: State, placed: State) -> State:
        params, stats = self._weights.variables()
        state = State({"backbone": params}, {"stats": {"backbone": stats}})
        return jax.device_put(state, placed)
