"""VQ-KD: the tokenizer of BEiT v2, masked image modeling with vector-quantized visual tokenizers
(2208.06366).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Probability, Whole
from ssl_jax.losses.discrete_codes import code_usage
from ssl_jax.losses.negative_cosine import negative_cosine
from ssl_jax.nets.codes import code_head
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import TOKENIZER, Aux, Encoder, ImageTokenizer, View
from ssl_jax.objectives.parts import codebook
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.teacher import TokenStudent
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class VQKD(TokenStudent):
    """Every patch is replaced by the nearest of a vocabulary of vectors, from which a small decoder
    predicts the tokens of a frozen, pretrained teacher. `beit_v2` learns from the codes.

    The backbone is a ViT; the decoder has its options and reads the map of codes in patches of 1.
    The codebook has unit rows and no gradient: it follows the moving average of the vectors that
    have each code, from the clusters of the first batch on. The release learns CLIP's tokens after
    its projection to the joint space; here a teacher ends with its last norm.

    Attributes:
      vocabulary: number of codes.
      code_dim: width of the codebook.
      decoder_depth: blocks of the decoder: 3 in the release's main tokenizer, 1 in its small one.
      commitment: weight of the distance between a patch's vector and its code.
      momentum: momentum of the codebook.
      kmeans_iterations: rounds of k-means on the first batch; 0 starts from random rows.

    Raises:
      UserError: as `TokenStudent`; fewer patches in a batch than codes to start.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone, a trained teacher (train.teacher_from)"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="vqkd", interpolation="bicubic")
    vocabulary: Count = 8192
    code_dim: Count = 32
    decoder_depth: Count = 3
    commitment: NonNegative = 1.0
    momentum: Probability = 0.99
    kmeans_iterations: Whole = 10

    @cached_property
    def networks(self) -> Networks:
        width, teacher_width = self.token_widths
        side, _ = self.patch_grid
        patches = self.spec.global_batch * side**2
        if self.kmeans_iterations and patches < self.vocabulary:
            raise UserError(
                f"objective.vocabulary: {self.vocabulary} codes start as clusters of the "
                f"{patches} patches of a batch; use at most as many, a larger batch, or "
                "kmeans_iterations=0"
            )
        grid = {"patch": 1, "image_size": side, "depth": self.decoder_depth}
        return self.backbone_and(
            tokenizer=code_head(width, self.vocabulary, self.code_dim),
            decoder=self.backbone.like(channels=self.code_dim, drop_path=0.0, **grid),
            head=mlp_head(
                width, (width, teacher_width), norm=None, activation="tanh", init="normal0.02"
            ),
        )

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        projection = dict(params[TOKENIZER])
        codes = projection.pop("codebook")
        book = {"codes": codes, "counts": jnp.zeros(self.vocabulary, codes.dtype)}
        return dict(params, tokenizer=projection), dict(extra, codebook=book)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        target = self.teach(extra, images).patches
        assert target is not None  # `token_widths` refuses others
        options = {"keys": rng.per_example(key, batch["index"])} if self.backbone.draws else {}
        book = extra["codebook"]
        tokenizer = self.tokenizer(params, book)
        nets = self.networks.bind(dict(params, tokenizer=tokenizer), extra["stats"])
        vectors = nets.tokenizer(nets.backbone(images, **options).map, project=True)
        book = self.started(book, vectors, key)
        quantized = codebook.quantize(vectors, book)
        prediction = nets.head(nets.decoder(quantized.vectors).patches)
        distillation = 1 + jnp.mean(negative_cosine(prediction, target))
        loss = distillation + self.commitment * quantized.commitment
        book_after = codebook.update(book, vectors, quantized.codes, self.momentum)
        used, perplexity = code_usage(quantized.codes, self.vocabulary)
        metrics = {
            "distillation": distillation,
            "commitment": quantized.commitment,
            "codes_used": used.astype(jnp.float32),
            "code_perplexity": perplexity,
        }
        return loss, Aux(dict(extra, stats=nets.stats, codebook=book_after), metrics=metrics)

    def started(self, book: codebook.Codebook, vectors: Array, key: Array) -> codebook.Codebook:
        """Start the codebook from the clusters of the first batch's vectors (B, h, w, d)."""
        if not self.kmeans_iterations:
            return book

        def cluster() -> codebook.Codebook:
            made = codebook.kmeans_codebook(vectors, self.vocabulary, key, self.kmeans_iterations)
            return tree.cast_like(made, dict(book))

        return jax.lax.cond(jnp.sum(book["counts"]) > 0, lambda: dict(book), cluster)

    def tokenizer(self, params: Tree, book: codebook.Codebook) -> Tree:
        """Return the parameters of the network "tokenizer", with the codebook."""
        return dict(params[TOKENIZER], codebook=book["codes"])

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        head = ImageTokenizer(
            self.tokenizer(params, extra["codebook"]), self.networks.nets[TOKENIZER]
        )
        backbone, stats = params["backbone"], extra["stats"]["backbone"]
        return Encoder(backbone, stats, self.backbone, tokenizer=head)


make = VQKD.make
