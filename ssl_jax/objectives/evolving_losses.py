"""Evolving losses for unsupervised video representation learning (2002.12177)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Integer, Positive, Probability
from ssl_jax.losses.multi_modal import weighted_sum
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Aux, Inputs, Objective, Spec, View
from ssl_jax.objectives.parts.clip_tasks import ClipTasks
from ssl_jax.objectives.parts.modalities import RGB, Modalities, Modality
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


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

    view: OneCrop = View(224, area=(1.0, 1.0), recipe="normalize")
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
            if name not in self.tasks.names:
                known = suggest(name, self.tasks.names)
                raise UserError(f"objective.weights: no task {name!r}; {known}")
        if not any(self.weights.get(name, 1.0) for name in self.tasks.names):
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
        return replace(
            made, weights={name: made.weights.get(name, 1.0) for name in made.tasks.names}
        )

    @cached_property
    def tasks(self) -> ClipTasks:
        """The tasks of all modalities, with their heads and losses."""
        other_clips = self.misaligned == "clip"
        parts = Modalities(self.modalities, self.backbone, self.view, self.samples, other_clips)
        return ClipTasks(parts, self.margin)

    def inputs(self) -> Inputs:
        frames = 2 * self.backbone.config.frames
        sound = frames * self.samples if "sound" in self.modalities else 0
        return Inputs((self.view,), frames=frames, flow="flow" in self.modalities, sound=sound)

    @cached_property
    def networks(self) -> Networks:
        encoders = self.tasks.modalities.encoders
        others = {m: net for m, net in encoders.items() if m != RGB}
        heads = self.tasks.heads(self.feature_dim, self.hidden, self.embedding)
        return self.backbone_and(**others, **heads)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        weights = [self.weights.get(name, 1.0) for name in self.tasks.names]
        # In the state and not in the program, so that all members of a population compile once.
        extra["weights"] = jnp.array(weights, jnp.float32)
        extra["scale"] = jnp.zeros(len(weights), jnp.float32)  # first losses; 0 until then
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        tasks, parts = self.tasks, self.tasks.modalities
        weights = dict(zip(tasks.names, extra["weights"], strict=True))
        nets = self.networks.bind(tasks.switched(params, weights), extra["stats"])
        versions, encoded = {}, {}
        for m, clip in parts.clips(batch, key).items():
            versions[m] = parts.versions(m, clip, batch["index"], key)
            network = nets.backbone if m == RGB else getattr(nets, m)
            stages = tuple(student if m == RGB else teacher for student, teacher in self.layers)
            encoded[m] = parts.encode(network, versions[m], stages)
        results, accuracies = tasks.losses(nets, encoded, versions, weights)
        losses = jnp.stack([results[name] for name in tasks.names])
        metrics = {f"{name}/loss": loss for name, loss in results.items()}
        metrics |= {f"{name}/accuracy": value for name, value in accuracies.items()}
        scale = first_losses(extra["scale"], losses)
        if self.normalize:
            losses = losses / jnp.where(scale > 0, scale, 1)
        extra = dict(extra, stats=nets.stats, scale=scale)
        return weighted_sum(losses, extra["weights"]), Aux(extra, metrics=metrics)


def first_losses(scale: Array, losses: Array) -> Array:
    """Return the first finite value of each loss (T,); `scale` holds those so far, 0 for none."""
    losses = jax.lax.stop_gradient(losses)
    first = (scale == 0) & jnp.isfinite(losses)
    return jnp.where(first, losses, scale).astype(scale.dtype)


make = EvolvingLosses.make
