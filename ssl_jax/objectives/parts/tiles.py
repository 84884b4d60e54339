"""A network without context: the backbone sees one tile at a time, and only the head several."""

from dataclasses import dataclass
from typing import Any

import jax

from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.parts.branch import Branch
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class TileClassifier:
    """Embeds each tile on its own with shared weights; a classifier reads several embeddings.

    Attributes:
      embedder: the backbone and "embedding".
      classifier: classifier of concatenated embeddings.
    """

    embedder: Branch
    classifier: Net

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Create fresh (params, stats) of "backbone", "embedding", "classifier"."""
        return self.embedder.then(classifier=self.classifier).init(key)

    def apply(
        self, params: Tree, stats: Tree, tiles: Array, order: Array, *, train: bool = True
    ) -> tuple[Array, Tree]:
        """Compute logits (B, m, classes) of m questions per image, and the new statistics.

        As the embedder has no context, a tile is embedded once for all questions that it is in.

        Args:
          tiles: (B, n, h, w, C).
          order: (B, m, k) int32, indices of the k tiles of each question, in order.
        """
        batch, count, _ = order.shape
        out, stats = self.embedder.apply(params, stats, fold(tiles), train=train)
        embeddings = unfold(jax.nn.relu(out["embedding"]), tiles.shape[1])
        questions = jax.vmap(lambda each, at: each[at])(embeddings, order)
        logits, stats["classifier"] = self.classifier.apply(
            params["classifier"],
            stats["classifier"],
            questions.reshape(batch * count, -1),
            train=train,
        )
        return unfold(logits, count), stats


def tile_classifier(
    backbone: Net,
    size: int,
    channels: int,
    *,
    tiles_per_question: int,
    classes: int,
    width: int,
    hidden: tuple[int, ...],
    microbatches: int = 1,
) -> TileClassifier:
    """Build a `TileClassifier` whose embedding is a linear map with batch norm and ReLU.

    Args:
      size, channels: those of a tile.
      tiles_per_question: number of tiles in a question.
      classes: number of possible answers.
      width: width of the embedding.
      hidden: widths of the classifier's hidden layers.
      microbatches: see `Branch`.
    """
    dim = output_shapes(backbone, (size, size, channels)).pooled.shape[0]
    embedding = mlp_head(dim, (width,), last_norm="affine")
    embedder = Branch((("backbone", backbone), ("embedding", embedding)), microbatches)
    return TileClassifier(embedder, mlp_head(tiles_per_question * width, (*hidden, classes)))
