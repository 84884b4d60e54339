"""Evolving losses for unsupervised video representation learning (2002.12177)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import photometric, recipes
from ssl_jax.augment.patches import tubelets
from ssl_jax.augment.sound import spectrogram
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import Count, Integer, Positive, Probability
from ssl_jax.losses.multi_modal import switched, weighted_sum
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.stacked import stacked
from ssl_jax.objectives.base import Aux, Inputs, Objective, Spec, View
from ssl_jax.objectives.parts.clip_tasks import (
    Encoded,
    Versions,
    contrast,
    distillation,
    pixels,
    questions,
    versions_of,
)
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import augmented_frames, fold, unfold

Array = jax.Array
Tree = Any
Modality = Literal["rgb", "grey", "flow", "sound"]
RGB = "rgb"  # the modality whose network is the backbone
FLOW_UNIT = 1 / 16  # motion that becomes 1, as a share of the side of a frame
OWN = ("reconstruction", "future", "order", "shuffle")  # tasks of every modality
WITH_RGB = ("alignment", "contrast", "distillation")  # tasks of every other modality
VERSIONS = ("past", "played", "mixed", "paired")  # that the networks see


@dataclass(frozen=True)
class EvolvingLosses(Objective):
    """A network per modality of a clip, with up to seven pretext tasks, and distillation into the
    network of RGB, which alone is used afterwards. The loss is the sum of all tasks' losses with
    weights in [0, 1], which `ssl-jax evolve` finds by evolution.

    No code was released, and the appendix's details were not available: the networks are
    transformers of clips, where the paper has (2+1)D ResNets; heads are linear on tokens (pixels)
    or perceptrons on the networks' output. Tasks are called TASK_MODALITY: reconstruction, future,
    order (played backwards?) and shuffle (frames mixed?) of every modality; colorization of grey;
    alignment, contrast and distillation between RGB and every other one.

    Attributes:
      view: size and chain of the frames; the whole clip has one crop and one draw.
      modalities: grey is made of RGB; flow and sound are the data's.
      samples: samples of the sound track per frame.
      weights: task -> weight; tasks that are left out have 1. A weight of 0 switches a task off.
      normalize: divide every loss by its value in the first batch, as the scales differ.
      misaligned: frames that alignment has to tell from the right ones: the same clip's at another
        "time", or those of another "clip".
      hidden: hidden layers of the classifiers of order, shuffle and alignment.
      embedding: width of the space of the contrast.
      margin: largest squared distance to which clips are pushed apart there, on the unit sphere.
      layers: pairs of stages, of RGB's network and of another: the first learns the second.

    Raises:
      UserError: a backbone of images, grey data, modalities without "rgb" or twice, an unknown
        task, weights that are all 0, a chain that moves pixels beside flow.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "colour clips with flow and sound, and the backbone `vit_video`"
    least_batch: ClassVar[int] = 2

    view: View = View(224, area=(1.0, 1.0), recipe="normalize")
    modalities: tuple[Modality, ...] = ("rgb", "grey", "flow", "sound")
    samples: Count = 640
    weights: Mapping[str, Probability] = field(default_factory=dict)
    normalize: bool = True
    misaligned: Literal["time", "clip"] = "time"
    hidden: tuple[Count, ...] = (256,)
    embedding: Count = 128
    margin: Positive = 1.0
    layers: tuple[tuple[Integer, Integer], ...] = ((-1, -1),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.backbone.config, "times"):
            raise UserError(
                "objective: this backbone reads single images, but the method needs clips; set "
                "backbone.name='vit_video'"
            )
        if self.spec.channels != 3:
            raise UserError(f"objective: expected colour clips, got {self.spec.channels} channels")
        if RGB not in self.modalities or len({*self.modalities}) < len(self.modalities):
            raise UserError(
                f"objective.modalities: expected 'rgb' and each one once, got {self.modalities}"
            )
        for name in self.weights:
            if name not in self.tasks:
                raise UserError(f"objective.weights: no task {name!r}; {suggest(name, self.tasks)}")
        if not any(self.weights.get(name, 1.0) for name in self.tasks):
            raise UserError("objective.weights: all are 0, so nothing is trained; set one above 0")
        chain = recipes.recipe(self.view.recipe)
        if "flow" in self.modalities and (chain.flip or chain.affine or chain.rand_augment):
            raise UserError(
                "objective.view.recipe: this chain moves pixels, but not their flow; use a chain "
                "without flip, affine and rand_augment"
            )

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method; `weights` then lists every task."""
        made = super().make(backbone, spec, **hyper)
        return replace(made, weights={name: made.weights.get(name, 1.0) for name in made.tasks})

    @cached_property
    def modalities_of(self) -> Mapping[str, tuple[str, ...]]:
        """Modalities with each kind of task."""
        others = tuple(m for m in self.modalities if m != RGB)
        grey = tuple(m for m in others if m == "grey")
        return (
            dict.fromkeys(OWN, self.modalities)
            | {"colorization": grey}
            | dict.fromkeys(WITH_RGB, others)
        )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(f"{kind}_{m}" for kind, ms in self.modalities_of.items() for m in ms)

    def inputs(self) -> Inputs:
        frames = 2 * self.backbone.config.frames
        sound = frames * self.samples if "sound" in self.modalities else 0
        return Inputs((self.view,), frames=frames, flow="flow" in self.modalities, sound=sound)

    @cached_property
    def encoders(self) -> Mapping[str, Net]:
        """The network of each modality; a spectrogram is a clip of one frame."""
        like = self.backbone.like
        made = {RGB: self.backbone, "grey": like(channels=1), "flow": like(channels=2)}
        made["sound"] = like(channels=1, frames=1, tubelet=1)
        return {m: made[m] for m in self.modalities}

    @cached_property
    def networks(self) -> Networks:
        dim, count = self.feature_dim, len(self.modalities)
        classifier = mlp_head(dim, (*self.hidden, 1), norm=None)
        heads = {"order": stacked(classifier, count), "shuffle": stacked(classifier, count)}
        if count > 1:
            pair = mlp_head(2 * dim, (*self.hidden, 1), norm=None)
            projector = stacked(mlp_head(dim, (self.embedding,)), count - 1)
            heads["alignment"] = stacked(pair, count - 1)
            heads |= {"contrast": projector, "contrast_rgb": projector}
        for m, encoder in self.encoders.items():
            size = int(np.prod(encoder.config.window)) * encoder.channels
            heads[f"pixels_{m}"] = stacked(mlp_head(dim, (size,)), 2)
            if m == "grey":
                heads["colorization"] = stacked(mlp_head(dim, (3 * size,)), 1)
        others = {m: net for m, net in self.encoders.items() if m != RGB}
        return self.backbone_and(**others, **heads)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        weights = [self.weights.get(name, 1.0) for name in self.tasks]
        # In the state and not in the program, so that all members of a population compile once.
        extra["weights"] = jnp.array(weights, jnp.float32)
        extra["scale"] = jnp.zeros(len(weights), jnp.float32)  # first losses; 0 until then
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        weights = dict(zip(self.tasks, extra["weights"], strict=True))
        nets = self.networks.bind(self.switched(params, weights), extra["stats"])
        clips = self.clips(batch, key)
        drawn = {m: self.versions(m, clip, batch["index"], key) for m, clip in clips.items()}
        encoded = {m: self.encode(nets, m, each) for m, each in drawn.items()}
        results, accuracies = self.losses(nets, encoded, drawn, weights)
        losses = jnp.stack([results[name] for name in self.tasks])
        metrics = {f"{name}/loss": loss for name, loss in results.items()}
        metrics |= {f"{name}/accuracy": value for name, value in accuracies.items()}
        first = jax.lax.stop_gradient(losses)
        unknown = (extra["scale"] == 0) & jnp.isfinite(first)
        scale = jnp.where(unknown, first, extra["scale"]).astype(extra["scale"].dtype)
        if self.normalize:
            losses = losses / jnp.where(scale > 0, scale, 1)
        extra = dict(extra, stats=nets.stats, scale=scale)
        return weighted_sum(losses, extra["weights"]), Aux(extra, metrics=metrics)

    def losses(
        self,
        nets: Bound,
        encoded: Mapping[str, Encoded],
        drawn: Mapping[str, Versions],
        weights: Mapping[str, Array],
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Compute the loss of every task, and the accuracy of those that are questions."""
        losses: dict[str, Array] = {}
        accuracies: dict[str, Array] = {}
        rgb, others = encoded[RGB], self.modalities_of["alignment"]

        def together(names: list[str], features: list[Array]) -> Array:
            """Stack the features of tasks, with a gradient from those whose weight is not 0."""
            return switched(jnp.stack(features, 1), self.select(weights, names), axis=1)

        def ask(kind: str, features: list[Array], answers: list[Array]) -> None:
            names = self.names(kind)
            classify = getattr(nets, kind)
            results = questions(classify, together(names, features), jnp.stack(answers, 1))
            losses.update(zip(names, results[0], strict=True))
            accuracies.update(zip(names, results[1], strict=True))

        every = [(encoded[m], drawn[m]) for m in self.modalities]
        ask("order", [e.played for e, _ in every], [v.forwards for _, v in every])
        ask("shuffle", [e.mixed for e, _ in every], [v.ordered for _, v in every])
        for m, (own, versions) in zip(self.modalities, every, strict=True):
            names = [f"reconstruction_{m}", f"future_{m}"]
            targets = jnp.stack([self.cells(m, versions.past), self.cells(m, versions.future)], 1)
            decode = getattr(nets, f"pixels_{m}")
            errors = pixels(decode, together(names, [own.tokens] * 2), targets)
            losses.update(zip(names, errors, strict=True))
        for name in self.names("colorization"):
            tokens = together([name], [encoded["grey"].tokens])
            colors = self.cells(RGB, drawn[RGB].past)[:, None]
            losses[name] = pixels(nets.colorization, tokens, colors)[0]
        if others:
            pairs = [jnp.concatenate([rgb.past, encoded[m].paired], axis=-1) for m in others]
            ask("alignment", pairs, [drawn[m].aligned for m in others])
            names = self.names("contrast")
            z = nets.contrast_rgb(together(names, [rgb.past] * len(others)))
            other = nets.contrast(together(names, [encoded[m].past for m in others]))
            losses.update(zip(names, contrast(z, other, self.margin), strict=True))
            names = self.names("distillation")
            student = together(names, [rgb.layers] * len(others))
            teachers = jnp.stack([encoded[m].layers for m in others], 1)
            losses.update(zip(names, distillation(student, teachers), strict=True))
        return losses, accuracies

    def names(self, kind: str) -> list[str]:
        """Return the names of the tasks of a kind, in the order of their modalities."""
        return [f"{kind}_{m}" for m in self.modalities_of[kind]]

    def select(self, weights: Mapping[str, Array], names: list[str]) -> Array:
        """Return the weights (T,) of some tasks."""
        return jnp.stack([weights[name] for name in names])

    def switched(self, params: Tree, weights: Mapping[str, Array]) -> Tree:
        """Cut the gradient of the heads of tasks whose weight is 0."""
        owners = {kind: self.names(kind) for kind in self.modalities_of}
        owners["contrast_rgb"] = owners["contrast"]
        owners |= {f"pixels_{m}": [f"reconstruction_{m}", f"future_{m}"] for m in self.modalities}
        return {
            name: jax.tree.map(lambda x, o=owners[name]: switched(x, self.select(weights, o)), tree)
            if name in owners
            else tree
            for name, tree in params.items()
        }

    def clips(self, batch: Mapping[str, Any], key: Array) -> dict[str, Array]:
        """Return the clips (B, 2 n, ...) of each modality: frames (.., H, W, C), or sound (.., s),
        the samples of each frame.
        """
        rgb = augmented_frames(self.view, batch, key)
        made = {RGB: rgb}
        if "grey" in self.modalities:
            luma = recipes.unit(self.view, rgb) @ jnp.array(photometric.LUMA, rgb.dtype)
            made["grey"] = recipes.normalize(self.view, luma[..., None])
        if "flow" in self.modalities:
            made["flow"] = batch["flow"] / (FLOW_UNIT * self.view.side)
        if "sound" in self.modalities:
            made["sound"] = batch["sound"].reshape(*rgb.shape[:2], self.samples)
        return {m: made[m] for m in self.modalities}

    def versions(self, modality: str, clip: Array, index: Array, key: Array) -> Versions:
        """Draw the versions of a modality's clips, as its network sees them."""

        def backwards(frames: Array) -> Array:
            if modality == "flow":  # what moved to the right moves to the left
                return -frames[:, ::-1]
            return frames[:, ::-1, ::-1] if modality == "sound" else frames[:, ::-1]

        def shown(frames: Array) -> Array:
            if modality != "sound":
                return frames
            side = self.view.side
            return spectrogram(frames.reshape(len(frames), -1), side, side)[:, None]

        keys = rng.per_example(rng.named(key, modality), index)
        drawn = versions_of(clip, keys, backwards, self.misaligned == "clip")
        return Versions(*map(shown, drawn[:5]), *drawn[5:])

    def encode(self, nets: Bound, modality: str, drawn: Versions) -> Encoded:
        """Encode all versions of a modality in one pass."""
        network = nets.backbone if modality == RGB else getattr(nets, modality)
        rows = fold(jnp.stack([getattr(drawn, name) for name in VERSIONS], axis=1))
        features = network(rows, stages=True)
        first = lambda x: unfold(x, len(VERSIONS))[:, 0]  # noqa: E731
        numbers = [pair[0 if modality == RGB else 1] for pair in self.layers]
        layers = jnp.stack([first(features.read(number, "avg")) for number in numbers], 1)
        pooled = jnp.moveaxis(unfold(features.pooled, len(VERSIONS)), 1, 0)
        return Encoded(first(features.patches), *pooled, layers)

    def cells(self, modality: str, clip: Array) -> Array:
        """Cut a modality's clip into the tubelets of its network's tokens."""
        config = self.encoders[modality].config
        return tubelets(clip, config.tubelet, config.patch)


make = EvolvingLosses.make
