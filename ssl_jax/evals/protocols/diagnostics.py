"""Label-free signs of health or collapse of a representation; pure functions of arrays."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.recipes import augment
from ssl_jax.core import sharding
from ssl_jax.core.inputs import Inputs
from ssl_jax.core.placement import place
from ssl_jax.core.ranges import Several
from ssl_jax.evals.base import AtLayer, Batch, Subject, call
from ssl_jax.evals.checks import check_count
from ssl_jax.evals.collapse import cluster_entropy, evenness
from ssl_jax.losses.discrete_codes import code_usage
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder, Probe

Array = jax.Array

BLOCK = 64  # images whose codes are computed at a time


@dataclass(frozen=True, kw_only=True)
class Diagnostics(AtLayer):
    """The numbers below, of clean test images and of two augmentations of each.

    `dimensions` is the upper bound of `rankme`; only methods with clusters have `cluster_entropy`,
    and only tokenizers the numbers of codes.

    Attributes:
      examples: most test images; some numbers need all pairs in memory.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "rankme": "effective rank (RankMe)",
        "dimensions": "largest rank that the features can have",
        "feature_std": "feature deviation (0 = collapsed)",
        "cluster_entropy": "evenness of clusters (0 = one, 1 = all alike)",
        "code_entropy": "evenness of codes (0 = one, 1 = all alike)",
        "code_perplexity": "perplexity of codes",
        "codes_used": "number of codes in use",
        "alignment": "alignment of two views (lower = closer)",
        "uniformity": "uniformity (lower = more even)",
    }

    examples: Several = 2048

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        pixels, index = images.whole(images.some(self.examples))
        check_count(len(index), 2)
        inputs = place((pixels, index), sharding.replicated(images.mesh))
        options = (subject.probe_of(self),)
        numbers = call(_numbers, images.view, options, subject.encoder, *inputs)
        return {name: float(value) for name, value in jax.device_get(numbers).items()}


def _numbers(encoder: Encoder, batch: Batch, probe: Probe) -> dict[str, Array]:
    twice = {"views": (jnp.stack([batch.raw, batch.raw], axis=1),), "index": batch.index}
    inputs = Inputs(views=(dataclasses.replace(batch.view, count=2),))
    pairs = augment(inputs, twice, jax.random.key(0))["views"][0]
    a, b = (probe.read(encoder.features(pairs[:, i])) for i in (0, 1))
    outputs = encoder.features(batch.images)
    clean = probe.read(outputs)
    numbers = {
        "rankme": rankme(clean),
        "feature_std": feature_std(clean),
        "alignment": alignment(a, b),
        "uniformity": uniformity(clean),
        "dimensions": jnp.asarray(min(clean.shape)),
    }
    if encoder.clusters is not None:
        numbers["cluster_entropy"] = cluster_entropy(encoder.clusters.logits(outputs.pooled))
    if encoder.tokenizer is not None:
        # In blocks, as there is a score for each code at each place.
        codes = jax.lax.map(encoder.tokenizer.codes, outputs, batch_size=BLOCK).reshape(-1)
        count = jax.eval_shape(encoder.tokenizer.scores, outputs).shape[-1]
        used, perplexity = code_usage(codes, count)
        numbers |= {"codes_used": used, "code_perplexity": perplexity}
        numbers["code_entropy"] = evenness(codes, count)
    return numbers


def rankme(features: Array, eps: float = 1e-7) -> Array:
    """Effective rank, RankMe (2210.02885, equation 2): exp of the entropy of the singular values.

    `p = sigma / sum sigma + eps`, `exp(-sum p ln p)` of the (N, D) matrix, not centred. The
    identity has its size; a matrix of rank r has at most r, up to eps.
    Memory and time are those of a singular value decomposition; the paper uses N = 25,600.
    """
    check_shapes("rankme: features (N, D)", features)
    sigma = jnp.linalg.svd(as_float(features), compute_uv=False)
    tiny = jnp.finfo(sigma.dtype).tiny
    p = sigma / jnp.maximum(jnp.sum(sigma), tiny) + eps
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def feature_std(features: Array) -> Array:
    """Standard deviation over the batch of unit features, mean over dimensions, times sqrt(D).

    1 for directions spread evenly over the sphere, 0 at collapse (SimSiam 2011.10566, section 4.1,
    which plots it without the factor). (N, D) -> scalar.
    """
    check_shapes("feature_std: features (N, D)", features)
    unit = l2_normalize(features, floor="norm")
    return jnp.mean(jnp.std(unit, axis=0)) * unit.shape[1] ** 0.5


def alignment(x: Array, y: Array, alpha: float = 2.0) -> Array:
    """Mean of |x_i - y_i|^alpha over positive pairs of unit vectors (2005.10242, section 4.1).

    (N, D), (N, D) -> scalar; 0 is perfect, 2 is that of unrelated directions at alpha 2.
    """
    check_shapes("alignment: x, y (N, D)", x, y)
    distance = jnp.sum(
        jnp.square(l2_normalize(x, floor="norm") - l2_normalize(y, floor="norm")), axis=-1
    )
    return jnp.mean(distance ** (alpha / 2))


def uniformity(x: Array, t: float = 2.0) -> Array:
    """`log mean_{i<j} exp(-t |x_i - x_j|^2)` of unit vectors (2005.10242, section 4.1).

    (N, D) -> scalar; 0 if all are the same, near -2 t if spread evenly in a high dimension. Every
    pair counts once, without self-pairs. N x N similarities are in memory at once.
    """
    check_shapes("uniformity: x (N, D)", x)
    unit = l2_normalize(x, floor="norm")
    n = unit.shape[0]
    similarity = jnp.matmul(unit, unit.T, precision="highest")
    pairs = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, -2 * t * (1 - similarity))
    return jax.nn.logsumexp(pairs) - jnp.log(jnp.asarray(n * (n - 1), unit.dtype))
