"""The encoder of another run, where the backbone of this one starts: `train.init_from`."""

from pathlib import Path

import jax
from rich.console import Console

from ssl_jax.cli.experiment import Experiment
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.objectives.base import Encoder
from ssl_jax.train import state, workdir
from ssl_jax.train.checkpoint import Checkpoints

SHOWN = 3  # names in a message


def load(experiment: Experiment, console: Console) -> tuple[Tree, Tree] | None:
    """(params, stats) of the backbone that `train.init_from` names, laid out over this run's mesh;
    None if it names none.

    Raises:
      UserError: there is no such run or checkpoint, or its encoder is of another shape.
    """
    if not experiment.train.init_from:
        return None
    folder = Path(experiment.train.init_from)
    other = _open(folder)
    placed = state.shardings(other.abstract_state, experiment.sections["mesh"], experiment.mesh)
    with Checkpoints(folder / "checkpoints", reader=True) as checkpoints:
        step = checkpoints.latest
        if step is None:
            raise UserError(f"train.init_from: {folder} holds no checkpoint yet")
        restored = checkpoints.restore(step, other.abstract_state, placed)
    encoder = other.objective.encoder(restored.params, restored.extra)
    found, left = fit(_backbone(encoder), own_backbone(experiment), str(folder))
    more = f"; left there: {', '.join(left)}" if left else ""
    method = other.raw["objective"]["name"]
    console.print(f"backbone from step {step} of {folder} ({method}){more}")
    return found


def check(experiment: Experiment) -> None:
    """Whether `load` will find an encoder that fits; reads no weights.

    Raises:
      UserError: there is no such run, or its encoder is of another shape.
    """
    if experiment.train.init_from:
        other = _open(Path(experiment.train.init_from))
        now = other.abstract_state
        encoder = jax.eval_shape(other.objective.encoder, now.params, now.extra)
        fit(_backbone(encoder), own_backbone(experiment), experiment.train.init_from)


def own_backbone(experiment: Experiment) -> tuple[Tree, Tree]:
    """Shapes of the variables of the run's backbone, (params, stats)."""
    return jax.eval_shape(experiment.objective.backbone.init, jax.random.key(0))


def fit(given: tuple[Tree, Tree], like: tuple[Tree, Tree], name: str) -> tuple[Tree, list[str]]:
    """Those of the variables `given` that `like` has, in its structure, and the names of others.

    Raises:
      UserError: one that `like` has is missing, or has another shape.
    """
    there = tree.named_leaves(given)
    wanted = tree.named_leaves(like)
    missing = [path for path in wanted if path not in there]
    wrong = [
        f"{path} {there[path].shape} for {leaf.shape}"
        for path, leaf in wanted.items()
        if path in there and there[path].shape != leaf.shape
    ]
    if missing or wrong:
        said = [f"missing {_few(missing)}"] if missing else []
        said += [f"of another shape {_few(wrong)}"] if wrong else []
        raise UserError(
            f"train.init_from: the encoder of {name} is another network than `backbone`: "
            f"{'; '.join(said)}. Give `backbone` the values that it has in {name}/config.json"
        )
    found = tree.map_with_name(lambda path, _: there[path], like)
    return found, [_short(path) for path in there if path not in wanted]


def _open(folder: Path) -> Experiment:
    return Experiment.from_config(workdir.read_config(folder), folder)


def _backbone(encoder: Encoder) -> tuple[Tree, Tree]:
    return encoder.params, encoder.stats


def _short(path: str) -> str:
    """Without the number that stands for params or stats."""
    return path.split("/", 1)[1]


def _few(names: list[str]) -> str:
    shown = ", ".join(map(_short, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
