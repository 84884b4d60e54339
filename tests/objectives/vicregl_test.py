"""VICRegL: the loss of its parts against the released code; placements, views, errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.vicregl import VICRegL
from tests.objectives import released

GOLDEN = Path(__file__).parents[1] / "golden"
SPEC = Spec(8, 100, 0, 10, 100)
WHOLE = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
MIRRORED = np.array([[1, 0, 0], [0, -1, 1]], np.float32)
# Its map is the image, its embedding of a place the pixel.
PIXELS = Net(
    lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x.mean((1, 2)), map=x), s), "pixels"
)


def small(**hyper):
    options = {"views": (View(8), View(8), View(4, count=2)), "matches": (8, 2)}
    return VICRegL.make(released.Tiny(4).net(3), SPEC, **(options | hyper))


def pixels():
    """A method whose places are pixels, with a loss of locations alone; and its parameters."""
    off = {f"{name}_weight": 0.0 for name in ("global", "variance", "covariance")}
    views = (View(4), View(4))
    made = VICRegL.make(
        PIXELS, SPEC, views=views, matches=(16, 16), all_feature_matches=False, **off
    )
    heads = dict.fromkeys(("projector", "map_projector"), released.IDENTITY)
    made.__dict__["networks"] = made.backbone_and(**heads)
    return made, {name: {} for name in ("backbone", *heads)}


class LossTest(parameterized.TestCase):
    def test_golden(self):
        """The method adds the terms of the released code with its weights, in float32; for float64
        and gradients see `tests/losses/vicregl_test.py`.
        """
        data = np.load(GOLDEN / "vicregl.npz")
        views = sum(name.startswith("in_map") for name in data)
        names = ("invariance_weight", "variance_weight", "covariance_weight")
        made = small(
            global_weight=float(str(data["hp_alpha"])),
            matches=tuple(data["hp_num_matches"].tolist()),
            all_feature_matches=bool(data["hp_l2_all_matches"]),
            **dict(zip(names, data["hp_coeff"].tolist(), strict=True)),
        )
        load = lambda name: [jnp.asarray(data[f"in_{name}{v}"]) for v in range(views)]  # noqa: E731
        locations = [x.reshape(len(x), -1, 2) for x in load("loc")]
        whole, local = jax.jit(made.criteria)(load("global"), load("map"), locations)
        for value, name in ((whole, "global"), (local, "local")):
            np.testing.assert_allclose(value, data[f"out_{name}"].sum(), rtol=1e-5)
        loss = made.global_weight * whole + (1 - made.global_weight) * local
        np.testing.assert_allclose(loss, data["out_loss"], rtol=1e-5)

    def test_placements_match_the_same_part_of_a_mirrored_view(self):
        """Two views of one image, the second mirrored: matches by location differ in nothing if the
        placement says so, and do differ without it.
        """
        made, params = pixels()
        images = np.random.default_rng(0).normal(size=(8, 1, 4, 4, 3)).astype(np.float32)

        @jax.jit
        def loss(at):
            batch = {"views": (images, images[:, :, :, ::-1]), "index": np.arange(8)}
            batch["placement"] = tuple(jnp.broadcast_to(x, (8, 1, 2, 3)) for x in (WHOLE, at))
            return made.loss(params, {"stats": {}}, batch, jax.random.key(0), jnp.int32(0))[0]

        np.testing.assert_allclose(loss(MIRRORED), 0, atol=1e-5)
        self.assertGreater(float(loss(WHOLE)), 1)

    def test_pictures_are_rebuilt_from_the_mirror_image(self):
        made, params = pixels()
        images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
        run = jax.jit(made.pictures)
        (picture,) = run(params, {"stats": {}}, images, jax.random.key(1)).values()
        # Every pixel is a place, so both kinds of matches show the image itself.
        for column, expected in enumerate((images, images[:, :, ::-1], images, images)):
            np.testing.assert_allclose(picture.images[:, column], expected, atol=1e-6)

    def test_views_of_two_sizes_have_maps_of_two_sizes(self):
        made = small()
        self.assertEqual(made.grids, [(4, 4), (4, 4), (2, 2), (2, 2)])
        self.assertTrue(made.inputs().placement)

    @parameterized.parameters(
        ({"views": (View(8),)}, "objective.views: groups of"),
        ({"views": (View(8), View(8, count=2))}, "must fill whole groups"),
        ({"views": (View(8, count=3),)}, "must fill whole groups"),
        (
            {"matches": (17, 2)},
            r"objective.matches: \(17, 2\), but the map of the large view has 16",
        ),
        ({"matches": (8, 5)}, "of the smallest view has 4 places; use at most that many"),
        ({"matches": (0, 1)}, "objective.matches"),
        ({"global_weight": 1.5}, "objective.global_weight"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            _ = small(**hyper).networks

    def test_a_backbone_without_a_map_is_an_error(self):
        flat = Net(lambda k: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "x")
        with self.assertRaisesRegex(UserError, "no map; set backbone.name='resnet'"):
            _ = VICRegL.make(flat, SPEC, views=(View(8), View(8))).networks


if __name__ == "__main__":
    absltest.main()
