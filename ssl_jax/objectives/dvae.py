"""The discrete VAE of DALL-E, which BEiT takes as its tokenizer (2102.12092)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment.recipes import recipe, statistics
from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive, Several
from ssl_jax.losses.discrete_codes import code_usage, gumbel_softmax, uniform_divergence
from ssl_jax.losses.reconstruction import logit_laplace_error, squared_error
from ssl_jax.losses.smooth_l1 import smooth_l1
from ssl_jax.nets.codes import code_head
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Aux, Encoder, ImageTokenizer, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS, mosaic
from ssl_jax.objectives.parts.schedules import cosine
from ssl_jax.objectives.parts.views import check_sides, fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DVAE(Objective):
    """Every place of the encoder's map chooses one of `vocabulary` codes, and a decoder
    reconstructs the image from the codes alone. It is a tokenizer: methods such as BEiT predict
    its codes.

    The choice is relaxed to a Gumbel softmax, whose temperature falls. The loss is the negative
    evidence lower bound (section 2.1 and appendix A.2): the reconstruction's error plus
    `kl_weight` times the divergence of the codes' distribution from the uniform one.

    Attributes:
      view: crop and augmentation (count 1).
      vocabulary: number of codes, K.
      code_dim: width of the codes' vectors that the decoder reads.
      likelihood: "logit_laplace" (appendix A.3) for pixels within (0, 1), as of the chain "dalle";
        the "squared" error or "smooth_l1" in the released codes of lucidrains and BEiT.
      temperature: temperature of the softmax at the first step and from `temperature_steps` on; it
        falls on half a cosine.
      temperature_steps: number of these steps.
      kl_weight: weight of the divergence from `kl_steps` on; it rises from 0 on half a cosine.
      kl_steps: number of these steps.
      kl_per: what the divergence of an image, the sum over its places, is divided by: the number
        of its values ("subpixel": the bound per value, as the paper's 6.6 is meant) or of its
        places ("place"). The released codes sum over the whole batch: a weight w for batches of B
        images with N places is w B N per place here.
      straight_through: decode one-hot codes, with the gradient of the relaxed ones.
      average: momentum of an average of the weights, which is then used as the tokenizer; 0 for
        none.

    Raises:
      UserError: a backbone without a decoder, a view that does not fit its stride, or a chain that
        does not fit the likelihood.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "an encoder with a decoder (backbone.name='dalle' or 'discrete_vae')"
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(256, area=(0.5, 1.0), recipe="dalle", interpolation="bicubic")
    vocabulary: Several = 8192
    code_dim: Count = 128
    likelihood: Literal["logit_laplace", "squared", "smooth_l1"] = "logit_laplace"
    temperature: tuple[Positive, Positive] = (1.0, 1 / 16)
    temperature_steps: Count = 150_000
    kl_weight: NonNegative = 6.6
    kl_steps: Count = 5000
    kl_per: Literal["subpixel", "place"] = "subpixel"
    straight_through: bool = False
    average: BelowOne = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        mean, std = statistics(recipe(self.view.recipe), self.spec.channels)
        within = (-mean / std > 0).all() and ((1 - mean) / std < 1).all()
        if self.likelihood == "logit_laplace" and not within:
            raise UserError(
                "objective.likelihood: 'logit_laplace' needs pixels within (0, 1); use the mean "
                "and std of view.recipe='dalle', or likelihood='squared'"
            )

    @cached_property
    def head(self) -> Net:
        grid = self.shapes.map
        if grid is None:
            raise UserError("objective: this backbone has no map")
        return code_head(grid.shape[-1], self.vocabulary)

    @cached_property
    def decoder(self) -> Net:
        config, channels = self.backbone.config, self.spec.channels
        out = 2 * channels if self.likelihood == "logit_laplace" else channels
        made: Net = config.decoder(self.vocabulary, self.code_dim, out)
        check_sides(self.view, self.backbone)
        return made

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(decoder=self.decoder, tokenizer=self.head)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        return params, extra | ({"average": params} if self.average else {})

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        nets = self.networks.bind(params, extra["stats"])
        logits = nets.tokenizer(nets.backbone(images).map)
        noise = self.noise(rng.per_example(key, batch["index"]), logits.shape[1:])
        temperature = cosine(step, self.temperature_steps, *self.temperature)
        weights = gumbel_softmax(logits, noise, temperature, self.straight_through)

        error = self.error(nets.decoder(weights), images)
        divergence = uniform_divergence(logits)
        per_image = jnp.mean(jnp.sum(divergence, axis=(1, 2)))
        count = images[0].size if self.kl_per == "subpixel" else divergence[0].size
        weight = cosine(step, self.kl_steps, 0.0, self.kl_weight)
        loss = error + weight * per_image / count

        used, perplexity = code_usage(jnp.argmax(logits, axis=-1), self.vocabulary)
        metrics = {
            "reconstruction": error,
            "kl_per_place": jnp.mean(divergence),
            "temperature": temperature,
            "codes_used": used.astype(jnp.float32),
            "code_perplexity": perplexity,
        }
        return loss, Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def noise(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """Draw Gumbel noise (B, h, w, K) with keys (B,)."""
        return jax.vmap(lambda k: jax.random.gumbel(k, shape))(keys)

    def error(self, prediction: Array, images: Array) -> Array:
        """Return the reconstruction's error per value of the images (B, H, W, C)."""
        if self.likelihood == "logit_laplace":
            return logit_laplace_error(prediction, images)
        if self.likelihood == "squared":
            return squared_error(prediction, images)
        return jnp.mean(smooth_l1(prediction, images))

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        if not self.average:
            return params, extra
        momentum = jnp.minimum(self.average, (1 + step) / (10 + step))  # soon away from the start
        return params, dict(extra, average=tree.ema(extra["average"], params, momentum))

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the encoder with its tokenizer, or their average if there is one."""
        params = extra.get("average", params)
        tokenizer = ImageTokenizer(params["tokenizer"], self.head)
        stats = extra["stats"]["backbone"]
        return Encoder(params["backbone"], stats, self.backbone, tokenizer=tokenizer)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return (extra["average"], extra["stats"]) if self.average else None

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images, params = images[:ROWS], extra.get("average", params)
        codes = self.encoder(params, extra).codes(images)
        nets = self.networks.bind(params, extra["stats"], train=False)
        mean, std = statistics(recipe(self.view.recipe), self.spec.channels)
        colors = mosaic(codes, self.vocabulary, self.view.sides, self.spec.channels)
        rows = jnp.stack([images, (colors - mean) / std, self.decode(nets, codes)], axis=1)
        caption = (
            f"The encoder replaces each of {codes.shape[1]} x {codes.shape[2]} places by one of "
            f"{self.vocabulary} codes, each with a shade of its own; the decoder reconstructs the "
            "image from the codes alone."
        )
        return {"Codes": Picture(rows, caption, ("image", "codes", "reconstruction"))}

    def decode(self, nets: Bound, codes: Array) -> Array:
        """Reconstruct images (B, H, W, C) from codes (B, h, w), normalised as the view."""
        prediction = nets.decoder(jax.nn.one_hot(codes, self.vocabulary))
        if self.likelihood == "logit_laplace":
            return jax.nn.sigmoid(prediction[..., : self.spec.channels])
        return prediction


make = DVAE.make
