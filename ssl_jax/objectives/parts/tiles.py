"""Networks without context: the backbone sees one tile at a time, and only the head several."""

import jax

from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.parts.networks import Bound
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array


def tile_heads(
    backbone: Net,
    size: int,
    channels: int,
    *,
    tiles_per_question: int,
    classes: int,
    width: int,
    hidden: tuple[int, ...],
) -> dict[str, Net]:
    """Build the heads for `answer`: "embedding", a linear map with batch norm, and "classifier".

    Args:
      size, channels: those of a tile.
      tiles_per_question: number of tiles in a question.
      classes: number of possible answers.
      width: width of the embedding.
      hidden: widths of the classifier's hidden layers.
    """
    dim = output_shapes(backbone, (size, size, channels)).pooled.shape[0]
    return {
        "embedding": mlp_head(dim, (width,), last_norm="affine"),
        "classifier": mlp_head(tiles_per_question * width, (*hidden, classes)),
    }


def answer(nets: Bound, tiles: Array, order: Array) -> Array:
    """Compute logits (B, m, classes) of m questions per image.

    Each tile is embedded on its own with shared weights, once for all questions that it is in; the
    classifier reads the embeddings of a question's tiles.

    Args:
      nets: the backbone and `tile_heads`.
      tiles: (B, n, h, w, C).
      order: (B, m, k) int32, indices of the k tiles of each question, in order.
    """
    embeddings = jax.nn.relu(nets.embedding(nets.backbone(fold(tiles)).pooled))
    tiles_of = jax.vmap(lambda each, at: each[at])
    questions = tiles_of(unfold(embeddings, tiles.shape[1]), order)  # (B, m, k, width)
    return nets.classifier(questions.reshape(*order.shape[:2], -1))
