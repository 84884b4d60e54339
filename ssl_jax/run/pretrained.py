"""Weights that a run starts from, another run's or a file's: `train.init_from`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.objectives.base import Encoder
from ssl_jax.run import orbax_export
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.roles import places
from ssl_jax.train import state
from ssl_jax.train.checkpoint import Checkpoints
from ssl_jax.train.state import InitialWeights
from ssl_jax.weights import networks
from ssl_jax.weights.networks import REST, STUDENT, TEACHER, Weights
from ssl_jax.weights.places import under


class Plan(NamedTuple):
    """What of a file goes where.

    Attributes:
      student: variables by path, from which the backbone starts and every copy of it.
      leaves: path in the state -> value, of all that is loaded beside it.
      heads, left: names of the file's heads that fit, and of those that do not.
    """

    student: Mapping[str, np.ndarray]
    leaves: dict[str, np.ndarray]
    heads: list[str]
    left: list[str]


def load(experiment: Experiment, console: Console) -> InitialWeights | None:
    """What `train.init_from` names, laid out over this run's mesh; None if it names nothing.

    Of another run the encoder is taken, whatever this run trains. Of a file, also the heads that
    fit and, where both have one, the slow average; see docs/weights.md.

    Raises:
      UserError: there is no such run, checkpoint or file, or its backbone is of another shape.
    """
    name = experiment.train.init_from
    if not name:
        return None
    if not _is_run(Path(name)):
        weights = from_file(experiment)
        found = plan(experiment, weights)
        _tell(console, name, weights, found)
        return _placed(experiment, found)
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
    backbone, left = fit(_backbone(encoder), own_backbone(experiment), str(folder))
    more = f"; left there: {', '.join(left)}" if left else ""
    method = other.raw["objective"]["name"]
    console.print(f"backbone from step {step} of {folder} ({method}){more}")
    return InitialWeights(backbone)


def check(experiment: Experiment) -> None:
    """Whether `load` will find weights that fit. Of a run it reads none of them.

    Raises:
      UserError: there is no such run or file, or its backbone is of another shape.
    """
    name = experiment.train.init_from
    if name and _is_run(Path(name)):
        other = Experiment.of_run(Path(name))
        now = other.abstract_state
        encoder = jax.eval_shape(other.objective.encoder, now.params, now.extra)
        same(experiment, other)
        fit(_backbone(encoder), own_backbone(experiment), name)
    elif name:
        plan(experiment, from_file(experiment))


def same(experiment: Experiment, other: Experiment) -> None:
    """Compare what shapes do not tell of the backbones of two runs.

    Raises:
      UserError: they differ.
    """
    ours, theirs = (run.raw.get("backbone", {}) for run in (experiment, other))
    try:
        networks.agree(ours, theirs)
    except UserError as e:
        raise UserError(f"train.init_from: {experiment.train.init_from}: {e}") from None


def backbone_of(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The section `backbone` of what `train.init_from` names, and the channels of its images.

    Args:
      given: keys of the section that a public file does not tell.

    Raises:
      UserError: there is no such run or file, or it does not tell.
    """
    path = Path(name).expanduser()
    if _is_run(path):
        run = Experiment.of_run(path)
        return {"name": "resnet"} | dict(run.raw.get("backbone", {})), run.spec.channels
    try:
        weights = networks.of_file(orbax_export.read_any(path), str(path), given)
    except UserError as e:
        raise UserError(f"train.init_from: {e}") from None
    return dict(weights.backbone), weights.channels


def from_file(experiment: Experiment) -> Weights:
    """The weights in the file, or in the exported checkpoint, that `train.init_from` names.

    Raises:
      UserError: it cannot be read, or holds another network than `backbone`.
    """
    path = Path(experiment.train.init_from)
    backbone = {"name": "resnet"} | dict(experiment.raw.get("backbone", {}))
    channels = experiment.spec.channels
    try:
        return networks.of_file(orbax_export.read_any(path), str(path), backbone, channels)
    except UserError as e:
        raise UserError(f"train.init_from: {e}") from None


def plan(experiment: Experiment, weights: Weights) -> Plan:
    """What of a file goes where in the state of this run."""
    objective, abstract = experiment.objective, experiment.abstract_state
    where = places(objective, abstract.params, abstract.extra)
    leaves = tree.named_leaves({"params": abstract.params, "extra": abstract.extra})
    both = len(weights.networks) > 1 and any(part == TEACHER for part, _ in where.values())
    sources = {part: part if both else weights.encoder for part in (STUDENT, TEACHER)}
    found: dict[str, np.ndarray] = {}
    heads: set[str] = set()
    for part, source in sources.items():
        given = weights.networks[source]
        own = {path: place for place, (of, path) in where.items() if of == part}
        for head in {path.split("/")[0] for path in own}:
            paths = {path: place for path, place in own.items() if path.split("/")[0] == head}
            if head == "backbone" and not both:
                continue  # the state is made with it
            shapes = {path: leaves[place].shape for path, place in paths.items()}
            if _fits(given, shapes, head):
                found |= {place: given[path] for path, place in paths.items()}
                heads.add(head)
    if weights.metadata.get("method") == experiment.raw["objective"]["name"]:
        rest = {
            p: weights.rest[p] for p, (of, _) in where.items() if of == REST and p in weights.rest
        }
        found |= {p: array for p, array in rest.items() if array.shape == leaves[p].shape}
    left = [head for head in weights.heads if head not in heads]
    return Plan(weights.networks[sources[STUDENT]], found, sorted(heads - {"backbone"}), left)


def _fits(given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple], head: str) -> bool:
    """Whether the file has exactly these variables of a head."""
    if any(path not in given or given[path].shape != shape for path, shape in shapes.items()):
        return False
    more = [path for path in given if path.split("/")[0] == head and path not in shapes]
    # Norms of prototypes that are fixed at 1 are stored in DINO's files, and no parameter of ours.
    return all(path.endswith("last_layer/g") and np.all(given[path] == 1) for path in more)


def _placed(experiment: Experiment, found: Plan) -> InitialWeights:
    where = {
        "params": experiment.placed.params,
        "extra": experiment.placed.extra,
    }
    shardings = tree.named_leaves(where)

    def put(array: np.ndarray, path: str) -> jax.Array:
        return jax.make_array_from_callback(array.shape, shardings[path], array.__getitem__)

    given = under(found.student, "backbone/")
    params, stats = networks.fill(given, own_backbone(experiment), experiment.train.init_from)
    backbone = (
        tree.map_with_name(lambda path, x: put(x, f"params/backbone/{path}"), params),
        tree.map_with_name(lambda path, x: put(x, f"extra/stats/backbone/{path}"), stats),
    )
    return InitialWeights(
        backbone, {path: put(array, path) for path, array in found.leaves.items()}
    )


def _tell(console: Console, name: str, weights: Weights, found: Plan) -> None:
    where = ", ".join(weights.report.networks)
    said = [f"backbone from {name}, {weights.report.loaded:,} tensors ({where})"]
    said += [f"heads: {', '.join(found.heads)}"] if found.heads else []
    left = [*found.left, *weights.report.skipped]
    said += [f"left there: {networks.few(tuple(left))}"] if left else []
    console.print("; ".join(said))


def own_backbone(experiment: Experiment) -> tuple[Tree, Tree]:
    """Shapes of the variables of the run's backbone, (params, stats)."""
    return jax.eval_shape(experiment.objective.backbone.init, jax.random.key(0))


def fit(given: tuple[Tree, Tree], like: tuple[Tree, Tree], name: str) -> tuple[Tree, list[str]]:
    """Those of the variables `given` that `like` has, in its structure, and the names of others.

    Raises:
      UserError: one that `like` has is missing, or has another shape.
    """
    there = networks.flat(*given)
    missing, wrong = networks.compare(there, like)
    wanted = networks.flat(*like)
    more = tuple(path for path in there if path not in wanted and path != "mask_token")
    if missing or wrong or more:
        said = networks.Report(0, missing=missing, wrong=wrong, inside=more).complaint()
        raise UserError(
            f"train.init_from: the encoder of {name} is another network than `backbone`: {said}. "
            f"Give `backbone` the values that it has in {name}/config.json"
        )
    found = tuple(tree.map_with_name(lambda path, _: there[path], part) for part in like)
    return found, [path for path in there if path not in wanted]


def _is_run(path: Path) -> bool:
    """What is not there is taken for a run's folder, unless it has the name of a file."""
    return not orbax_export.is_weights(path) and not (path.suffix and not path.exists())


def _backbone(encoder: Encoder) -> tuple[Tree, Tree]:
    return encoder.params, encoder.stats
