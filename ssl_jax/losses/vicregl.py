"""VICRegL: VICReg for whole views and for matched places of their maps (2210.01571).

The first two views are the large ones: each of them is compared with all other views.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.losses.vicreg import covariance, invariance, variance

Array = jax.Array
Terms = tuple[Array, Array, Array]  # invariance, variance and covariance, scalars
Slots = Literal["place", "distance"]
LARGE = 2


@any_axes()
def whole_views(z: Array) -> Terms:
    """Compute the terms of the embeddings (B, V, D) of V views (section 3.1, equation 2).

    The invariance is the mean over the pairs of a large view and another one. As released, variance
    and covariance are means over the views, and the covariance has not the factor 2 that it has in
    `vicreg.vicreg`.
    """
    check_shapes("whole_views: z (B, V, D)", z)
    views = [z[:, i] for i in range(z.shape[1])]
    same = [invariance(views[i], view) for i in range(LARGE) for view in views[:i] + views[i + 1 :]]
    spread, decorrelated = (jnp.stack([f(x) for x in views]).mean() for f in (variance, covariance))
    return jnp.stack(same).mean(), spread, decorrelated


@any_axes()
def matched_places(
    first: Array,
    second: Array,
    first_locations: Array,
    second_locations: Array,
    matches: tuple[int, int],
    *,
    all_features: bool = True,
    slots: Slots = "place",
) -> Terms:
    """Compute the terms of matched places of the maps of two views (section 3.2, equations 3 to 6).

    Places are matched by location and by feature, both from the first view to the second and back.
    The terms are means over the two directions and sums over the two kinds of matches. The m-th
    match of all images is one slot: variance and covariance are over the B images of a slot, then
    averaged over the slots, as released.

    Args:
      first, second: (B, n, C) and (B, m, C), embeddings of the places.
      first_locations, second_locations: (B, n, 2) and (B, m, 2), positions in the image.
      matches: number of places of the first view that are matched, and of the second: those closest
        to their match.
      all_features: match all places by feature, as the release does by default.
      slots: order of the slots: "place", row by row in the map, as released, or "distance", the
        closest match first (lightly).
    """
    check_shapes(
        "matched_places: first (B, n, C), second (B, m, C), first_locations (B, n, 2), "
        "second_locations (B, m, 2)",
        first,
        second,
        first_locations,
        second_locations,
    )
    pairs: list[tuple[Array, Array]] = []
    feature_matches = (None, None) if all_features else matches
    for distances, counts in (
        (_distances(first_locations, second_locations), matches),
        (_distances(first, second), feature_matches),
    ):
        pairs.append(_matched(first, second, distances, counts[0], slots))
        pairs.append(_matched(second, first, distances.swapaxes(1, 2), counts[1], slots))
    # All slots at once, which compiles faster: their weights sum to 1/2 for each of the four lists.
    x, y = (jnp.concatenate(side, axis=1) for side in zip(*pairs, strict=True))
    weights = np.concatenate([np.full(own.shape[1], 0.5 / own.shape[1]) for own, _ in pairs])
    both = jnp.concatenate([x, y], axis=1)  # variance and covariance are means over both sides
    same = jnp.sum(weights * jax.vmap(invariance, 1)(x, y))
    spread, decorrelated = (
        jnp.sum(np.tile(weights / 2, 2) * jax.vmap(f, 1)(both)) for f in (variance, covariance)
    )
    return same, spread, decorrelated


@any_axes(1)
def nearest_places(
    distances: Array, count: int | None = None, slots: Slots = "place"
) -> tuple[Array, Array]:
    """Match each place to the nearest one of the other map and keep the closest matches.

    Args:
      distances: (B, n, m).
      count: number of matches; None for all n.
      slots: see `matched_places`.

    Returns:
      (B, count) int32 each: places of the first map, and their matches in the second.

    Raises:
      ValueError: fewer places than matches.
    """
    check_shapes("nearest_places: distances (B, n, m)", distances)
    places = distances.shape[1]
    if count is not None and count > places:
        raise ValueError(f"nearest_places: {count} matches of a map of {places} places")
    match = jnp.argmin(distances, axis=-1).astype(jnp.int32)
    if count is None and slots == "place":
        return jnp.broadcast_to(jnp.arange(places, dtype=jnp.int32), match.shape), match
    own = jax.lax.top_k(-jnp.min(distances, axis=-1), places if count is None else count)[1]
    own = (jnp.sort(own, axis=-1) if slots == "place" else own).astype(jnp.int32)
    return own, jnp.take_along_axis(match, own, axis=1)


def _matched(
    first: Array,
    second: Array,
    distances: Array,
    count: int | None,
    slots: Slots,
) -> tuple[Array, Array]:
    """Return the features (B, count, C) of matched places of both maps."""
    own, match = nearest_places(distances, count, slots)
    take = lambda x, at: jnp.take_along_axis(x, at[..., None], axis=1)  # noqa: E731
    return take(first, own), take(second, match)


def _distances(first: Array, second: Array) -> Array:
    """Compute the squared distances (B, n, m) of (B, n, d) and (B, m, d), without gradient."""
    first, second = (jax.lax.stop_gradient(as_float(x)) for x in (first, second))
    centre = jnp.mean(first, 1, keepdims=True)  # small numbers cancel less
    first, second = first - centre, second - centre
    norms = [jnp.sum(jnp.square(x), axis=-1) for x in (first, second)]
    # In full precision, as rounding to bfloat16 would select other places.
    products = jnp.einsum("bnc,bmc->bnm", first, second, precision="highest")
    return norms[0][..., None] + norms[1][:, None] - 2 * products
