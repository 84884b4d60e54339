"""Pretext tasks of the modalities of a clip: a function per kind of task, and all of them with
their heads (evolving losses, Piergiovanni et al. 2020, arXiv:2002.12177).

The functions compute T tasks of one kind, along the second axis, over the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.losses.multi_modal import binary, feature_distance, margin_contrast, switched
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.stacked import stacked
from ssl_jax.objectives.parts.modalities import RGB, Encoded, Modalities, Versions
from ssl_jax.objectives.parts.networks import Bound

Array = jax.Array
Tree = Any
Head = Callable[[Array], Array]
OWN = ("reconstruction", "future", "order", "shuffle")  # kinds of tasks of every modality
WITH_RGB = ("alignment", "contrast", "distillation")  # kinds of every modality but RGB


def pixels(decode: Head, tokens: Array, targets: Array) -> Array:
    """Mean squared errors (T,) of tubelets `targets` (B, T, N, P) that are decoded from tokens
    (B, T, N, D): of the past itself, of the future after it, or of the past in another modality.
    """
    return jnp.mean(jnp.square(as_float(decode(tokens)) - as_float(targets)), axis=(0, 2, 3))


def questions(classify: Head, features: Array, answers: Array) -> tuple[Array, Array]:
    """Answer T yes-no questions (B, T) from features (B, T, D); return the losses (T,) and the
    accuracies (T,).
    """
    logits = classify(features)[..., 0]
    right = (logits > 0) == (answers > 0.5)
    return jnp.mean(binary(logits, answers), axis=0), jnp.mean(right.astype(jnp.float32), axis=0)


def contrast(z: Array, others: Array, margin: float) -> Array:
    """Contrast of embeddings (B, T, d) with those of T others on the unit sphere, (T,): those of a
    clip are near, and those of the batch's next clip are apart.
    """
    z, others = l2_normalize(z), l2_normalize(others)
    return jnp.mean(margin_contrast(z, others, jnp.roll(others, 1, axis=0), margin), axis=0)


def distillation(student: Array, teachers: Array) -> Array:
    """Squared distances (T,) of a student's features (B, T, L, D) of L layers to T teachers'
    (B, T, L, D), which get no gradient; means over the layers.
    """
    return jnp.mean(feature_distance(student, teachers), axis=(0, 2))


@dataclass(frozen=True)
class ClipTasks:
    """All tasks of modalities; they are called KIND_MODALITY.

    Attributes:
      modalities: the modalities.
      margin: see `contrast`.
    """

    modalities: Modalities
    margin: float

    @cached_property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """The modalities with each kind of task."""
        every = self.modalities.names
        others = tuple(m for m in every if m != RGB)
        grey = tuple(m for m in others if m == "grey")
        own, with_rgb = dict.fromkeys(OWN, every), dict.fromkeys(WITH_RGB, others)
        return own | {"colorization": grey} | with_rgb

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(name for kind in self.kinds for name in self.of(kind))

    def of(self, kind: str) -> list[str]:
        """Return the names of the tasks of a kind, in the order of their modalities."""
        return [f"{kind}_{m}" for m in self.kinds[kind]]

    def heads(self, dim: int, hidden: Sequence[int], embedding: int) -> dict[str, Net]:
        """Return the networks on features of width `dim`: linear for pixels and contrast,
        perceptrons for questions.
        """
        count = len(self.modalities.names)
        classifier = mlp_head(dim, (*hidden, 1), norm=None)
        made = {"order": stacked(classifier, count), "shuffle": stacked(classifier, count)}
        if count > 1:
            pair = mlp_head(2 * dim, (*hidden, 1), norm=None)
            made["alignment"] = stacked(pair, count - 1)
            projector = stacked(mlp_head(dim, (embedding,)), count - 1)
            made |= {"contrast": projector, "contrast_rgb": projector}
        for m, encoder in self.modalities.encoders.items():
            size = int(np.prod(encoder.config.window)) * encoder.channels
            made[f"pixels_{m}"] = stacked(mlp_head(dim, (size,)), 2)
            if m == "grey":
                made["colorization"] = stacked(mlp_head(dim, (3 * size,)), 1)
        return made

    @cached_property
    def owners(self) -> Mapping[str, list[str]]:
        """The tasks of each head, in the order in which they are stacked."""
        made = {kind: self.of(kind) for kind in self.kinds} | {"contrast_rgb": self.of("contrast")}
        names = self.modalities.names
        made |= {f"pixels_{m}": [f"reconstruction_{m}", f"future_{m}"] for m in names}
        return {head: tasks for head, tasks in made.items() if tasks}

    def switched(self, params: Tree, weights: Mapping[str, Array]) -> Tree:
        """Cut the gradient of the heads of tasks whose weight is 0, and that of the networks of
        modalities without any other task.
        """
        cuts = {name: _select(weights, own) for name, own in self.owners.items()}
        for m in self.kinds["alignment"]:
            trained = [f"{kind}_{m}" for kind, ms in self.kinds.items() if m in ms]
            trained.remove(f"distillation_{m}")  # which gets no gradient from its student
            cuts[m] = jnp.max(_select(weights, trained))
        return {
            name: jax.tree.map(lambda x, cut=cuts[name]: switched(x, cut), tree)
            if name in cuts
            else tree
            for name, tree in params.items()
        }

    def losses(
        self,
        nets: Bound,
        encoded: Mapping[str, Encoded],
        versions: Mapping[str, Versions],
        weights: Mapping[str, Array],
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Compute the loss of every task, and the accuracy of those that are questions. A task of
        weight 0 sends no gradient into what it reads.
        """
        losses: dict[str, Array] = {}
        accuracies: dict[str, Array] = {}
        cells, rgb = self.modalities.cells, encoded[RGB]
        others = self.kinds["alignment"]

        def add(names: Sequence[str], values: Array, to: dict[str, Array] = losses) -> None:
            to.update(zip(names, values, strict=True))

        def together(names: Sequence[str], features: Sequence[Array]) -> Array:
            return switched(jnp.stack(features, axis=1), _select(weights, names), axis=1)

        def ask(kind: str, features: Sequence[Array], answers: Sequence[Array]) -> None:
            names, classify = self.of(kind), getattr(nets, kind)
            results = questions(classify, together(names, features), jnp.stack(answers, axis=1))
            add(names, results[0])
            add(names, results[1], to=accuracies)

        every = [(encoded[m], versions[m]) for m in self.modalities.names]
        ask("order", [e.played for e, _ in every], [v.forwards for _, v in every])
        ask("shuffle", [e.mixed for e, _ in every], [v.ordered for _, v in every])
        for m, (own, version) in zip(self.modalities.names, every, strict=True):
            names = self.owners[f"pixels_{m}"]
            targets = jnp.stack([cells(m, version.past), cells(m, version.future)], axis=1)
            decode = getattr(nets, f"pixels_{m}")
            add(names, pixels(decode, together(names, [own.tokens] * 2), targets))
        for name in self.of("colorization"):
            tokens, colors = encoded["grey"].tokens, cells(RGB, versions[RGB].past)
            add([name], pixels(nets.colorization, together([name], [tokens]), colors[:, None]))
        if others:
            pairs = [jnp.concatenate([rgb.past, encoded[m].paired], axis=-1) for m in others]
            ask("alignment", pairs, [versions[m].aligned for m in others])
            names = self.of("contrast")
            z = nets.contrast_rgb(together(names, [rgb.past] * len(others)))
            other = nets.contrast(together(names, [encoded[m].past for m in others]))
            add(names, contrast(z, other, self.margin))
            names = self.of("distillation")
            student = together(names, [rgb.layers] * len(others))
            teachers = jnp.stack([encoded[m].layers for m in others], axis=1)
            add(names, distillation(student, teachers))
        return losses, accuracies


def _select(weights: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Return the weights (T,) of some tasks."""
    return jnp.stack([weights[name] for name in names])
