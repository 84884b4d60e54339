"""Weights that a run starts from, of another run or of a file: `train.init_from`; `run.fixed` has
those of networks that are not trained.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from ssl_jax.core import hub, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.objectives.base import Encoder
from ssl_jax.run import fixed, orbax_export
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.roles import places
from ssl_jax.training import state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.state import InitialWeights
from ssl_jax.weights import channels, conversion, networks
from ssl_jax.weights.networks import REST, STUDENT, TEACHER, Weights
from ssl_jax.weights.places import under

CHANNELS_KEY = "train.init_channels"


class Assignment(NamedTuple):
    """Assignment of a file's variables to the state of a run.

    Attributes:
      student: variables by path, from which the backbone and all its copies start.
      leaves: path in the state -> value, of everything else that is loaded.
      heads, unused: names of the file's heads that fit, and of those that do not.
    """

    student: Mapping[str, np.ndarray]
    leaves: dict[str, np.ndarray]
    heads: list[str]
    unused: list[str]


def load(experiment: Experiment, console: Console) -> InitialWeights | None:
    """Load what `train.init_from` and `train.teacher_from` name, placed on this run's mesh; None if
    both are empty.

    Raises:
      UserError: see `load_backbone` and `fixed.load`.
    """
    teacher = fixed.load(experiment, console)
    weights = load_backbone(experiment, console)
    if weights is None:
        return InitialWeights(None, teacher) if teacher else None
    return InitialWeights(weights.backbone, {**weights.leaves, **teacher})


def load_backbone(experiment: Experiment, console: Console) -> InitialWeights | None:
    """Load what `train.init_from` names, placed on this run's mesh; None if it is empty.

    From another run the encoder is loaded, whatever this run trains. From a file also the heads
    that fit are loaded and, where both have one, the slow average; see docs/weights.md.

    Raises:
      UserError: no such run, checkpoint or file, or its backbone has another shape.
    """
    name = experiment.train.init_from
    if not name:
        return None
    if not fixed.is_run(Path(name)):
        weights = from_file(experiment)
        assignment = assign(experiment, weights)
        _report(console, name, weights, assignment)
        return _placed(experiment, assignment)
    folder = Path(name)
    other = Experiment.of_run(folder)
    placed = state.shardings(other.abstract_state, experiment.sections["mesh"], experiment.mesh)
    with Checkpoints(folder / "checkpoints", reader=True) as checkpoints:
        step = checkpoints.latest
        if step is None:
            raise UserError(f"train.init_from: {folder} holds no checkpoint yet")
        restored = checkpoints.restore(step, other.abstract_state, placed)
    encoder = other.objective.encoder(restored.params, restored.extra)
    same(experiment, other)
    source = for_channels(experiment, other, _backbone(encoder))
    backbone, unused = fit(source, own_backbone(experiment), str(folder))
    more = f"; not loaded: {', '.join(unused)}" if unused else ""
    method = other.raw["objective"]["name"]
    console.print(f"backbone from step {step} of {folder} ({method}){more}")
    return InitialWeights(backbone)


def check(experiment: Experiment) -> None:
    """Check that `load` will find weights that fit. Of a run only the config is read.

    Raises:
      UserError: no such run or file, or its backbone has another shape.
    """
    fixed.check(experiment)
    name = experiment.train.init_from
    if name and fixed.is_run(Path(name)):
        other = Experiment.of_run(Path(name))
        abstract = other.abstract_state
        encoder = jax.eval_shape(other.objective.encoder, abstract.params, abstract.extra)
        same(experiment, other)
        convert = functools.partial(for_channels, experiment, other)
        fit(jax.eval_shape(convert, _backbone(encoder)), own_backbone(experiment), name)
    elif name:
        assign(experiment, from_file(experiment))


def for_channels(experiment: Experiment, other: Experiment, source: tuple[Tree, Tree]) -> Any:
    """Convert the variables (params, stats) of the backbone of another run to the channels of this
    one's images, by `train.init_channels`.

    Raises:
      UserError: no rule for another number of channels, or a rule for the same.
    """
    train, own, count = experiment.train, other.spec.channels, experiment.spec.channels
    channels.check(train.init_channels, own, count, CHANNELS_KEY, f"the run {train.init_from}")
    if own == count:
        return source
    like = _shapes(experiment)
    convert = jax.jit(lambda x: channels.converted(x, count, train.init_channels))  # type: ignore[arg-type]

    def leaf(path: str, x: Any) -> Any:
        reads = channels.reads_image(tuple(x.shape), like.get(path, ()), own, count)
        return convert(x) if reads else x

    return tuple(tree.map_with_name(leaf, part) for part in source)


def same(experiment: Experiment, other: Experiment) -> None:
    """Compare the settings of two runs' backbones that shapes do not show.

    Raises:
      UserError: they differ.
    """
    ours, theirs = (run.raw.get("backbone", {}) for run in (experiment, other))
    try:
        networks.agree(ours, theirs)
    except UserError as e:
        raise UserError(f"train.init_from: {experiment.train.init_from}: {e}") from None


def backbone_of(name: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the section `backbone` of what `train.init_from` names, and the number of channels.

    Args:
      settings: keys of the section that a public file does not specify.

    Raises:
      UserError: no such run or file, or it does not specify its backbone.
    """
    path = Path(name).expanduser()
    if fixed.is_run(path):
        run = Experiment.of_run(path)
        return {"name": run.backbone_name} | dict(run.raw.get("backbone", {})), run.spec.channels
    try:
        weights = networks.of_file(orbax_export.read_any(hub.model(path)), name, settings)
    except UserError as e:
        raise UserError(f"train.init_from: {e}") from None
    return dict(weights.backbone), weights.channels


def from_file(experiment: Experiment) -> Weights:
    """Read the weights from the file, or the exported checkpoint, that `train.init_from` names.

    Raises:
      UserError: it cannot be read, or holds another network than `backbone`.
    """
    name, count = experiment.train.init_from, experiment.spec.channels
    try:
        file = orbax_export.read_any(hub.model(name))
        weights = networks.of_file(file, name, experiment.backbone_options)
    except UserError as e:
        raise UserError(f"train.init_from: {e}") from None
    rule = experiment.train.init_channels
    channels.check(rule, weights.channels, count, CHANNELS_KEY, f"train.init_from: {name}")
    if not rule:
        return weights
    like = {f"backbone/{name}": shape for name, shape in _shapes(experiment).items()}
    converted = {
        role: jax.device_get(channels.fitted(variables, like, weights.channels, count, rule))
        for role, variables in weights.networks.items()
    }
    return dataclasses.replace(weights, networks=converted, channels=count)


def assign(experiment: Experiment, weights: Weights) -> Assignment:
    """Assign the variables of a file to the state of this run."""
    objective, abstract = experiment.objective, experiment.abstract_state
    where = places(objective, abstract.params, abstract.extra)
    shapes = {
        path: leaf.shape
        for path, leaf in tree.named_leaves(
            {"params": abstract.params, "extra": abstract.extra}
        ).items()
    }
    both = len(weights.networks) > 1 and any(part == TEACHER for part, _ in where.values())
    sources = {part: part if both else weights.encoder for part in (STUDENT, TEACHER)}
    leaves: dict[str, np.ndarray] = {}
    heads: set[str] = set()
    for part, source in sources.items():
        variables = weights.networks[source]
        own = {path: place for place, (of, path) in where.items() if of == part}
        for head in {path.split("/")[0] for path in own}:
            paths = {path: place for path, place in own.items() if path.split("/")[0] == head}
            if head == "backbone" and not both:
                continue  # the state is created with it
            expected = {path: shapes[place] for path, place in paths.items()}
            if _fits(variables, expected, head):
                leaves |= {place: variables[path] for path, place in paths.items()}
                heads.add(head)
    if weights.metadata.get("method") == experiment.raw["objective"]["name"]:
        rest = {
            p: weights.rest[p] for p, (of, _) in where.items() if of == REST and p in weights.rest
        }
        leaves |= {p: array for p, array in rest.items() if array.shape == shapes[p]}
    unused = [head for head in weights.heads if head not in heads]
    return Assignment(
        weights.networks[sources[STUDENT]], leaves, sorted(heads - {"backbone"}), unused
    )


def _fits(variables: Mapping[str, np.ndarray], shapes: Mapping[str, tuple], head: str) -> bool:
    """Tell whether the file's variables of a head have exactly these shapes."""
    if any(p not in variables or variables[p].shape != shape for p, shape in shapes.items()):
        return False
    more = [path for path in variables if path.split("/")[0] == head and path not in shapes]
    # DINO's files store norms of prototypes that are fixed at 1; ours have no such parameter.
    return all(path.endswith("last_layer/g") and np.all(variables[path] == 1) for path in more)


def _placed(experiment: Experiment, assignment: Assignment) -> InitialWeights:
    placed = experiment.placed
    shardings = tree.named_leaves({"params": placed.params, "extra": placed.extra})

    def put(array: np.ndarray, path: str) -> jax.Array:
        return jax.make_array_from_callback(array.shape, shardings[path], array.__getitem__)

    variables = under(assignment.student, "backbone/")
    params, stats = conversion.fill(variables, own_backbone(experiment), experiment.train.init_from)
    backbone = (
        tree.map_with_name(lambda path, x: put(x, f"params/backbone/{path}"), params),
        tree.map_with_name(lambda path, x: put(x, f"extra/stats/backbone/{path}"), stats),
    )
    return InitialWeights(
        backbone, {path: put(array, path) for path, array in assignment.leaves.items()}
    )


def _report(console: Console, name: str, weights: Weights, assignment: Assignment) -> None:
    where = ", ".join(weights.report.networks)
    phrases = [f"backbone from {name}, {weights.report.loaded:,} tensors ({where})"]
    phrases += [f"heads: {', '.join(assignment.heads)}"] if assignment.heads else []
    unused = [*assignment.unused, *weights.report.skipped]
    phrases += [f"not loaded: {conversion.few(tuple(unused))}"] if unused else []
    console.print("; ".join(phrases))


def _shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Return path -> shape of the variables of the run's backbone."""
    leaves = conversion.flat(*own_backbone(experiment))
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def own_backbone(experiment: Experiment) -> tuple[Tree, Tree]:
    """Return the shapes of the variables of the run's backbone, (params, stats)."""
    return jax.eval_shape(experiment.objective.backbone.init, jax.random.key(0))


def fit(source: tuple[Tree, Tree], like: tuple[Tree, Tree], name: str) -> tuple[Tree, list[str]]:
    """Select the variables of `source` that `like` has, in its structure; also return the names of
    the others.

    Raises:
      UserError: a variable of `like` is missing, or has another shape.
    """
    variables, expected = conversion.flat(*source), conversion.flat(*like)
    missing, wrong = conversion.compare(variables, like)
    more = tuple(path for path in variables if path not in expected and path != "mask_token")
    if missing or wrong or more:
        difference = conversion.LoadReport(0, missing=missing, wrong=wrong, inside=more).complaint()
        raise UserError(
            f"train.init_from: the encoder of {name} is another network than `backbone`: "
            f"{difference}. Give `backbone` the values that it has in {name}/config.json"
        )
    selected = tuple(tree.map_with_name(lambda path, _: variables[path], part) for part in like)
    return selected, [path for path in variables if path not in expected]


def _backbone(encoder: Encoder) -> tuple[Tree, Tree]:
    return encoder.params, encoder.stats
