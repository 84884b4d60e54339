"""Jigsaw clustering: self-supervised learning from montages of several images (2104.00323)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.crop import corner_boxes, crop_resize, random_box
from ssl_jax.augment.patches import montage
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Inside, NonNegative, Positive, Range
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.supcon import supcon
from ssl_jax.nets.features import quadrants
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Inputs, Objective, Picture, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import check_plain, fold

Array = jax.Array
Tree = Any

Corners = Annotated[View, Inside("count", Annotated[int, Range(4, 4)])]  # one crop of each
CORNERS = ("top left", "bottom left", "top right", "bottom right")  # see `augment.crop`


@dataclass(frozen=True)
class JigsawClustering(Objective):
    """Four pieces of each image are shuffled over the batch, four to a montage; each is to be
    clustered with the others of its image, and its place in its image predicted.

    Attributes:
      view: the whole image (area (1, 1)), with the normalisation of the pieces alone as its chain.
        Its sides are those of evaluated images.
      piece: crop and augmentation of each of the image's four corners; twice its side is that of a
        montage. Its chain must normalise as the view's.
      cross: how far each corner reaches over the middle, as a share of a side.
      clusters: widths of the head for the clusters.
      temperature: temperature of the clustering loss.
      base_temperature: the clustering loss is multiplied by temperature / base_temperature, by 4.3
        in the release, whose command sets the former alone; equal temperatures give the paper's.
      weights: weights of the clustering loss and of the location loss.

    Raises:
      UserError: a view that is not the whole image, that changes it, or that is normalised
        otherwise than the pieces; a piece that is not square, or not one per corner.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "a large global batch"
    least_batch: ClassVar[int] = 2

    view: View = View(224, area=(1.0, 1.0), recipe="normalize")
    piece: Corners = View(112, count=4, area=(0.2, 1.0), recipe="moco_v2")
    cross: Annotated[float, Range(0, 0.5)] = 0.3
    clusters: tuple[Count, ...] = (2048, 128)
    temperature: Positive = 0.3
    base_temperature: Positive = 0.07
    weights: tuple[NonNegative, NonNegative] = (1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.piece.check_square()
        check_plain(self.view)
        chain, pieces = recipes.recipe(self.view.recipe), recipes.recipe(self.piece.recipe)
        expected, actual = ((c.mean, c.std, c.space) for c in (pieces, chain))
        if actual != expected:
            raise UserError(
                "objective.view.recipe: expected mean, std and space of objective.piece.recipe, "
                "{}, {} and {!r}, got {}, {} and {!r}".format(*expected, *actual)
            )

    @cached_property
    def networks(self) -> Networks:
        width = self.shapes.map.shape[-1]  # type: ignore[union-attr]  # every backbone has a map
        cluster = mlp_head(width, self.clusters, norm=None, init="torch")
        return self.backbone_and(cluster=cluster, location=mlp_head(width, (4,), init="torch"))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        pieces = self.cut(batch["views"][0][:, 0], batch["index"], rng.named(key, "cut"))
        nets = self.networks.bind(params, extra["stats"])
        shuffled, image, corner = self.shuffle(pieces, rng.named(key, "shuffle"))
        vectors = fold(self.embed(nets, shuffled))
        scale = self.temperature / self.base_temperature
        clustering = scale * supcon(nets.cluster(vectors), image.reshape(-1), self.temperature)
        logits, corner = nets.location(vectors), corner.reshape(-1)
        location = jnp.mean(cross_entropy(logits, corner))
        return self.weights[0] * clustering + self.weights[1] * location, Aux(
            {"stats": nets.stats},
            metrics={
                "clustering": clustering,
                "location": location,
                "accuracy": jnp.mean(logits.argmax(-1) == corner),
            },
        )

    def cut(self, images: Array, index: Array, key: Array) -> Array:
        """Cut and augment the corners of normalised images (B, H, W, C): (B, 4, h, h, C)."""
        levels = jnp.round(recipes.unit(self.view, images) * 255).astype(jnp.uint8)
        _, height, width, _ = images.shape
        corners = jnp.asarray(corner_boxes(height, width, self.cross))

        def piece(key: Array, image: Array, corner: Array) -> Array:
            box = random_box(key, corner[2], corner[3], self.piece.area, self.piece.crop)
            box = box.at[:2].add(corner[:2])
            return crop_resize(image, box, self.piece.size, self.piece.interpolation)

        keys = jax.vmap(lambda k: jax.random.split(k, 4))(rng.per_example(key, index))
        pieces = jax.vmap(jax.vmap(piece, (0, None, 0)), (0, 0, None))(keys, levels, corners)
        inputs, pipeline = Inputs((self.piece,)), {"views": (pieces,), "index": index}
        return recipes.augment(inputs, pipeline, key)["views"][0].astype(images.dtype)

    def shuffle(self, pieces: Array, key: Array) -> tuple[Array, Array, Array]:
        """Shuffle the pieces (B, 4, h, h, C) of the whole batch. Also return which image and which
        corner each comes from, (B, 4) int32.
        """
        count = len(pieces)
        order = self.order(key, 4 * count).reshape(4, count).T
        image, corner = order % count, order // count
        return pieces[image, corner], image, corner

    def order(self, key: Array, count: int) -> Array:
        """Draw a permutation (count,) of all pieces, which are numbered corner by corner."""
        return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))

    def embed(self, nets: Bound, pieces: Array) -> Array:
        """Compute a vector per piece, (B, 4, D), from the montages of (B, 4, h, h, C)."""
        return quadrants(nets.backbone(montage(pieces)).map)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        pieces = self.cut(images, jnp.arange(len(images)), key)
        shuffled, _, truth = self.shuffle(pieces, key)
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction = nets.location(self.embed(nets, shuffled[:ROWS])).argmax(-1).astype(jnp.int32)
        caption = (
            "Each row holds the four pieces of a montage, which come from several images; below "
            "each is the corner of its image that the network predicts."
        )
        columns = tuple(f"{place} of the montage" for place in ("1st", "2nd", "3rd", "4th"))
        picture = Picture(shuffled[:ROWS], caption, columns, prediction, truth[:ROWS], CORNERS)
        return {"Corners of the pieces": picture}


make = JigsawClustering.make
