"""data2vec: a general framework for self-supervised learning, here of images (2202.03555)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Part, Positive, Probability
from ssl_jax.losses.layer_targets import Norm, layer_targets
from ssl_jax.losses.masked import masked_smooth_l1
from ssl_jax.objectives.base import Aux, Objective, Probe, View
from ssl_jax.objectives.parts.block_masks import block_masks, hidden_patches
from ssl_jax.objectives.parts.ema import linear_momentum
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any
AVERAGED = ("blocks", "relative", "norm")  # the others of a ViT are embeddings


@dataclass(frozen=True)
class Data2Vec(Objective):
    """The student sees an image with blocks of patches hidden, and predicts for them the average of
    the last layers of its own slow average, the teacher, which sees all patches.

    The backbone is a ViT with `mask_token`, in the paper with shared relative positions. Only the
    transformer is averaged: the teacher has the student's embedding of patches and class token.
    There are two released codes: facebookresearch/data2vec_vision, that of the paper's results and
    of the defaults here, and fairseq. Both have attention dropout too, which our ViT lacks.

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the patches to hide, in blocks (section 4.1); see
        `augment.masks.block_mask`.
      min_patches: smallest number of patches of a block.
      layers: number of last layers to average, K.
      layer_norm: normalisation of each layer; see `losses.layer_targets`. fairseq's config: "none".
      target_norm: normalisation of the average.
      beta: error at which the loss turns from a square to linear; 0 for the square.
      loss_scale: factor of the loss, which is a mean over tokens and channels. fairseq sums over
        the D channels and divides by sqrt(D): a factor of sqrt(D).
      momentum: momentum of the teacher at the first and at the last step; it rises on a line.
        fairseq's config: (0.999, 0.9998).

    Raises:
      UserError: a backbone without patches, or with fewer blocks than `layers`; more `min_patches`
        than patches to hide.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token"
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")
    decays: ClassVar[str] = r"mask_token$"  # the release counts axes, and this has three

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="data2vec", interpolation="bicubic")
    mask_ratio: Part = 0.6
    min_patches: Count = 16
    layers: Count = 6
    layer_norm: Norm = "layer"
    target_norm: Norm = "layer"
    beta: NonNegative = 2.0
    loss_scale: Positive = 1.0
    momentum: tuple[Probability, Probability] = (0.9998, 0.9998)

    @cached_property
    def grid(self) -> tuple[int, int]:
        return self.patch_map[:2]

    @property
    def hidden(self) -> int:
        """Number of patches to hide; the generator may stay a little below."""
        return hidden_patches(self.grid, self.mask_ratio, self.min_patches)

    @cached_property
    def networks(self) -> Networks:
        _ = self.hidden  # raises if it is less than a block
        depth = len(self.stage_shapes.stages)
        if self.layers > depth:
            raise UserError(
                f"objective.layers: expected at most the backbone's {depth} blocks, got "
                f"{self.layers}"
            )
        return self.backbone_and()

    @cached_property
    def teacher_networks(self) -> Networks:
        """The backbone with the output of its last block as it is, not normed."""
        return Networks({"backbone": self.backbone.like(norm_after_pool=True)})

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)  # the teacher starts as the student
        return params, {"stats": stats, "teacher": params, "teacher_stats": stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        keys = rng.per_example(key, batch["index"])
        mask = self.masks(keys)
        student = self.networks.bind(params, extra["stats"])
        teacher = self.teacher_networks.bind(extra["teacher"], extra["teacher_stats"], train=False)
        prediction = self.predict(student, images, mask, keys)
        hidden = mask.reshape(len(mask), -1)
        loss = masked_smooth_l1(prediction, self.targets(teacher, images), hidden, self.beta)
        return self.loss_scale * loss, Aux(dict(extra, stats=student.stats))

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, rows, columns), bool, of the patches to hide with keys (B,)."""
        return block_masks(keys, self.grid, self.mask_ratio, self.min_patches)

    def predict(self, nets: Bound, images: Array, mask: Array, keys: Array) -> Array:
        """Predict the targets (B, N, D): they are the encoder's output itself."""
        draws = {"keys": keys} if self.backbone.draws else {}
        return nets.backbone(images, mask=mask, **draws).patches

    def targets(self, nets: Bound, images: Array) -> Array:
        """Average the last layers (B, N, D) of the teacher for the whole image."""
        stages = nets.backbone(images, stages=True).stages[-self.layers :]
        layers = jnp.stack([stage.patches for stage in stages])
        return layer_targets(layers, self.layer_norm, self.target_norm)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = linear_momentum(step + 1, self.spec.total_steps, *self.momentum)
        student, teacher = params["backbone"], extra["teacher"]["backbone"]
        averaged = [name for name in AVERAGED if name in student]
        old, new = ({name: net[name] for name in averaged} for net in (teacher, student))
        return params, dict(extra, teacher={"backbone": student | tree.ema(old, new, momentum)})

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]


make = Data2Vec.make
