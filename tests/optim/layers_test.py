"""Layer-wise rates against the closed form, for every leaf, and what an update makes of them."""

import re

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets import make_backbone
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.optim.layers import multipliers

VIT = {"dim": 8, "heads": 2, "patch": 4, "image_size": 16, "mask_token": True}


def shapes(name, **options):
    """The shapes of all parameters, and the config of the backbone among them."""
    net = make_backbone(name, 3, options)
    backbone = jax.eval_shape(net.init, jax.random.key(0))[0]
    head = {"kernel": jax.ShapeDtypeStruct((4, 2), np.float32)}
    # The blocks of another network are no layers of the backbone.
    others = {"classifier": head, "decoder": {"blocks": {"kernel": head}}}
    return {"backbone": backbone} | others, net.config


def scales(name, decay, **options):
    like, config = shapes(name, **options)
    return multipliers(like, decay, config)


class MultipliersTest(parameterized.TestCase):
    @parameterized.parameters((12, 0.65), (24, 0.75))
    def test_every_leaf_of_a_vit(self, depth, decay):
        factors = scales("vit", decay, size=None, depth=depth, **VIT)
        embeddings = ("patch_embed", "pos_embed", "cls_token", "mask_token")
        for path, scale in factors.items():
            name = path.split("/")[1]
            if path.startswith("backbone/blocks/"):
                self.assertEqual(scale.shape[0], depth)
                np.testing.assert_allclose(scale.ravel(), decay ** np.arange(depth, 0, -1.0))
            elif name in embeddings:
                np.testing.assert_allclose(scale, decay ** (depth + 1), err_msg=path)
            else:
                np.testing.assert_array_equal(scale, 1.0, err_msg=path)

    def test_the_published_numbers(self):
        """Factors of ViT-B with 0.65 and of ViT-L with 0.75 at the patch embedding."""
        for depth, decay, expected in ((12, 0.65, 0.0036972), (24, 0.75, 0.000752543)):
            scale = scales("vit", decay, size=None, depth=depth, **VIT)[
                "backbone/patch_embed/kernel"
            ]
            np.testing.assert_allclose(scale, expected, rtol=1e-4)

    def test_every_leaf_of_a_resnet_by_its_stage(self):
        for path, scale in scales("resnet", 0.5, depth=18).items():
            stage = re.match(r"backbone/stage(\d)/", path)
            power = 5 - int(stage[1]) if stage else 5 * path.startswith("backbone/stem/")
            np.testing.assert_array_equal(scale, 0.5**power, err_msg=path)

    def test_swin_blocks_count_over_all_stages(self):
        factors = scales("swin", 0.5, size="tiny")  # depths 2, 2, 6, 2: L = 12
        table = {
            "patch_embed/kernel": 13,
            "patch_norm/scale": 13,
            "stage1/blocks/straight/norm1/scale": 12,
            "stage1/blocks/shifted/norm1/scale": 11,
            "merge1/norm/scale": 11,
            "stage2/blocks/shifted_bias/table": 9,
            "merge3/reduce/kernel": 3,
            "stage4/blocks/straight_bias/table": 2,
            "stage4/blocks/shifted/mlp/fc1/kernel": 1,
            "norm/scale": 0,
        }
        for path, power in table.items():
            np.testing.assert_array_equal(factors[f"backbone/{path}"].ravel(), [0.5**power], path)
        third = factors["backbone/stage3/blocks/straight/norm1/scale"]
        np.testing.assert_array_equal(third, 0.5 ** np.array([[8.0], [6.0], [4.0]]))

    def test_unknown_layers_are_told(self):
        with self.assertRaisesRegex(UserError, "layer_decay: this backbone has no layers"):
            multipliers({"backbone": {"kernel": np.zeros(3)}}, 0.5, None)
        with self.assertRaisesRegex(UserError, r"layer_decay: .* in \(0, 1\], got 0.0"):
            OptimConfig(layer_decay=0.0)


class UpdateTest(parameterized.TestCase):
    @parameterized.parameters("adamw", "sgd", "lars", "lamb")
    def test_an_update_is_the_plain_one_times_the_multiplier(self, name):
        like, backbone = shapes("vit", size=None, depth=3, **VIT)
        draw = np.random.default_rng(0)
        params, grads = (
            jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), like)
            for _ in range(2)
        )

        def first(**options):
            config = OptimConfig(name=name, weight_decay=0.1, schedule="constant", **options)
            sizes = dict(batch_size=256, total_steps=10, steps_per_epoch=5)
            tx, _ = make_optimizer(config, params, {}, backbone=backbone, **sizes)
            update = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, step=np.int32(0))[0])
            return tree.named_leaves(update(grads, params))

        plain, scaled = first(), first(layer_decay=0.5)
        for path, scale in multipliers(like, 0.5, backbone).items():
            expected = plain[path] * scale
            bound = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(scaled[path], expected, atol=bound, rtol=0, err_msg=path)


if __name__ == "__main__":
    absltest.main()
