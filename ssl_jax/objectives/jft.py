"""JFT: classification of many noisy labels per image, at scale (1707.02968)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.core.sharding import padded_rows, split_columns
from ssl_jax.losses.multi_label import sigmoid_cross_entropy
from ssl_jax.losses.normalize import as_float
from ssl_jax.objectives.base import Aux, Inputs, Objective, View
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class JFT(Objective):
    """One binary classification per class, summed over the classes (section 3): an image may have
    several labels, and those that are wrong or missing do not compete in a softmax.

    The classifier's rows are split over all devices by class, like the scores (B, classes), which
    the paper splits into 50 parts: a device gathers the features, not the rows of others. No
    authors' code exists. Labels of wider classes come from `data.hierarchy`.

    Attributes:
      view: crop and augmentation (count 1).
      labels: largest number of labels of an image.
      positives: mean number of labels of an image, those of the hierarchy included. Every class
        starts at the probability positives / classes. In the data set JFT-300M 1.26 before the
        hierarchy.

    Raises:
      UserError: fewer than two classes, as many labels as classes, or several crops.
    """

    family: ClassVar[str] = "baseline"
    needs: ClassVar[str] = "several labels per image"

    view: OneCrop = View(299, area=(0.77, 0.77), recipe="s4l")
    labels: Count = 16
    positives: Positive = 1.26

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec.num_classes < 2:
            raise UserError("objective: this method needs labels of at least two classes")
        if self.positives >= self.spec.num_classes:
            raise UserError(
                f"objective.positives: expected fewer than the {self.spec.num_classes} classes, "
                f"got {self.positives:g}"
            )

    def inputs(self) -> Inputs:
        return Inputs((self.view,), labels=self.labels)

    @cached_property
    def prior(self) -> float:
        """Bias of every class at the start: -log((1 - p) / p). At 0 the first loss would be
        classes * ln 2.
        """
        p = self.positives / self.spec.num_classes
        return -math.log((1 - p) / p)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        # The name has the rows split over all devices; there are more of them than classes.
        shape = padded_rows(self.spec.num_classes), self.feature_dim
        kernel = 0.01 * jax.random.normal(rng.named(key, "classes"), shape, jnp.float32)
        classes = {"kernel": kernel, "bias": jnp.full(shape[:1], self.prior, jnp.float32)}
        return params | {"memory": classes}, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        features = nets.backbone(fold(batch["views"][0])).pooled
        logits, labels = self.scores(params["memory"], features), batch["labels"]
        loss = jnp.mean(sigmoid_cross_entropy(logits, labels))
        best = jnp.any(labels == jnp.argmax(logits, -1)[:, None], axis=-1)
        metrics = {"best_is_a_label": jnp.mean(best), "labels": jnp.mean(jnp.sum(labels >= 0, -1))}
        return loss, Aux({"stats": nets.stats}, metrics=metrics)

    def scores(self, classes: Mapping[str, Array], features: Array) -> Array:
        """Compute the logits of features (B, D): (B, R), split by columns over all devices. Rows
        beyond the classes have a score of which sigmoid and gradient are 0.
        """
        logits = split_columns(as_float(features) @ classes["kernel"].T + classes["bias"])
        return jnp.where(jnp.arange(logits.shape[1]) < self.spec.num_classes, logits, -1e9)


make = JFT.make
