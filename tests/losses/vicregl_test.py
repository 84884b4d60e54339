"""VICRegL's terms against the released code and lightly; selection of matches; invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.vicregl import matched_places, nearest_places, whole_views

GOLDEN = Path(__file__).parents[1] / "golden"


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def every(maps, locations, matches, options):
    """Means of the terms over all pairs of one of the first two views and another one."""
    pairs = [(i, j) for i in range(2) for j in range(len(maps)) if i != j]
    terms = [
        matched_places(maps[i], maps[j], locations[i], locations[j], matches, **options)
        for i, j in pairs
    ]
    return [jnp.stack(x).mean() for x in zip(*terms, strict=True)]


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters((False, True), (True, True))
    def test_terms_loss_and_gradients(self, lightly, wide):
        """facebookresearch/VICRegL, global_loss and local_loss; lightly's VICRegLLoss sorts the
        slots by distance and never matches all places by feature.
        """
        data = np.load(GOLDEN / "vicregl.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-9) if wide else ("", np.float32, 1e-5)
        views = sum(name.startswith("in_map") for name in data)
        alpha = float(str(data["hp_alpha"]))
        weights, matches = data["hp_coeff"].tolist(), tuple(data["hp_num_matches"].tolist())
        options = {"all_features": bool(data["hp_l2_all_matches"]) and not lightly}
        options["slots"] = "distance" if lightly else "place"
        with jax.enable_x64(wide):
            load = lambda name: [jnp.asarray(data[f"{name}{v}"], dtype) for v in range(views)]  # noqa: E731
            embeddings, maps = load("in_global"), load("in_map")
            locations = [x.reshape(len(x), -1, 2) for x in load("in_loc")]

            def loss(embeddings, maps):
                terms = (
                    whole_views(jnp.stack(embeddings, 1)),
                    every(maps, locations, matches, options),
                )
                both = [jnp.stack(x) * jnp.asarray(weights, dtype) for x in terms]
                return alpha * both[0].sum() + (1 - alpha) * both[1].sum(), both

            grad = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            (value, terms), grads = grad(embeddings, maps)
        suffix = "_lightly" if lightly else ""
        np.testing.assert_allclose(value, data[f"{prefix}out_loss{suffix}"], rtol=rtol)
        if not lightly:
            for name, term in zip(("global", "local"), terms, strict=True):
                np.testing.assert_allclose(term, data[f"{prefix}out_{name}"], rtol=rtol)
        between = "_lightly" if lightly else ""
        for name, of_views in zip(("global", "map"), grads, strict=True):
            for v, actual in enumerate(of_views):
                key = f"grad{between}_{name}{v}"
                twin = f"{prefix}{key}" in data  # else it is stored in float32 alone
                expected = data[f"{prefix}{key}" if twin else key]
                atol = (10 * rtol if twin else 1e-4) * np.abs(expected).max()
                np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


class MatchesTest(parameterized.TestCase):
    def test_the_closest_places_in_the_order_of_the_map(self):
        distances = jnp.array([[[3.0, 9, 4], [1, 2, 0], [8, 5, 7], [6, 2, 2]]])
        own, match = nearest_places(distances, 3)
        np.testing.assert_array_equal(own, [[0, 1, 3]])
        np.testing.assert_array_equal(match, [[0, 2, 1]])
        own, match = nearest_places(distances, 3, "distance")
        np.testing.assert_array_equal(own, [[1, 3, 0]])
        np.testing.assert_array_equal(match, [[2, 1, 0]])
        np.testing.assert_array_equal(nearest_places(distances)[0], [[0, 1, 2, 3]])

    def test_more_matches_than_places(self):
        with self.assertRaisesRegex(ValueError, "nearest_places: 5 matches of a map of 4 places"):
            nearest_places(jnp.zeros((1, 4, 3)), 5)

    def test_invariances(self):
        first, second = draw(6, 4, 3), draw(6, 4, 3, seed=1)
        places = draw(6, 4, 2, seed=2), draw(6, 4, 2, seed=3)
        run = jax.jit(lambda *args: jnp.stack(matched_places(*args, (2, 2))))
        terms = run(first, second, *places)
        order = np.array([3, 1, 0, 2, 5, 4])
        shuffled = run(*(x[order] for x in (first, second, *places)))
        np.testing.assert_allclose(shuffled, terms, rtol=1e-4)
        np.testing.assert_allclose(run(second, first, *places[::-1]), terms, rtol=1e-4)
        moved = run(first, second, *(3 * x + 5 for x in places))
        np.testing.assert_allclose(moved, terms, rtol=1e-5)
        same = run(first, first, places[0], places[0])[0]  # equal maps at equal locations
        np.testing.assert_allclose(same, 0, atol=1e-7)


if __name__ == "__main__":
    absltest.main()
