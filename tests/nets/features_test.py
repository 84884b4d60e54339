"""Reading of representations from a backbone's features."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.features import Features, Stage, pool

RNG = np.random.default_rng(0)


def features(cls: bool = True) -> Features:
    maps = [RNG.normal(size=(2, 4, 4, 3)).astype("f4") for _ in range(2)]
    tokens = [RNG.normal(size=(2, 3)).astype("f4") if cls else None for _ in range(2)]
    each = enumerate(zip(maps, tokens, strict=True))
    stages = tuple(
        Stage(name=f"block{i + 1}", map=x, cls=t, normed_cls=None if t is None else 2 * t)
        for i, (x, t) in each
    )
    return Features(pooled=RNG.normal(size=(2, 5)), map=maps[1], cls=tokens[1], stages=stages)


class ReadTest(parameterized.TestCase):
    def test_outputs_by_name(self):
        last = jnp.ones((2, 3, 3, 4))
        outputs = Features(pooled=jnp.ones((2, 4)), stages=(Stage(name="stage1", map=last),))
        self.assertIs(outputs["pooled"], outputs.pooled)
        self.assertIs(outputs["stage1"], last)
        np.testing.assert_array_equal(jax.device_get(outputs)["pooled"], outputs.pooled)
        for name in ("tokens", "stage2", "names", "read"):
            with self.assertRaisesRegex(KeyError, name):
                outputs[name]

    def test_each_stage_has_its_own(self):
        made = features()
        for number, stage in ((0, 0), (1, 1), (-1, 1), (-2, 0)):
            np.testing.assert_array_equal(made.read(number, "cls"), made.stages[stage].cls)
            mean = made.stages[stage].map.mean((1, 2))
            np.testing.assert_allclose(made.read(number, "avg"), mean, rtol=1e-5)
        np.testing.assert_array_equal(made.read(-1, "pooled"), made.read(1, "pooled"))
        np.testing.assert_allclose(made.read(1, "pooled"), made.pooled, rtol=1e-6)

    def test_class_tokens_of_several_blocks(self):
        """Earlier ones before later ones, each after the final norm, then the last mean."""
        made = features()
        mean = made.stages[1].map.mean((1, 2))
        tokens = [stage.normed_cls for stage in made.stages]
        for pooling, parts in (
            ("cls1", tokens[1:]),
            ("cls2", tokens),
            ("cls2_avg", [*tokens, mean]),
            ("cls_avg", [made.stages[1].cls, mean]),
        ):
            expected = np.concatenate(parts, axis=-1)
            np.testing.assert_allclose(made.read(-1, pooling), expected, rtol=1e-5)
        np.testing.assert_array_equal(made.read(0, "cls_avg")[:, :3], made.stages[0].cls)

    @parameterized.parameters(
        (2, "avg", "no stage 2 among the backbone's 2"),
        (-3, "avg", "no stage -3"),
        (0, "pooled", "after its last stage; stage 0 has avg, grid, large_grid, cls"),
        (-1, "max", "unknown pooling 'max'"),
        (-1, "cls3", "pool 'cls3' reads the last 3 blocks, stage -1; the backbone has 2"),
        (0, "cls1", "pool 'cls1' reads the last 1 blocks, stage -1"),
        (-1, "cls0", "pool 'cls0' reads"),
    )
    def test_errors(self, number, pooling, message):
        with self.assertRaisesRegex(UserError, message):
            features().read(number, pooling)

    def test_absent_parts(self):
        with self.assertRaisesRegex(UserError, "needs a backbone with a class token"):
            features(cls=False).read(-1, "cls")
        for pooling in ("cls_avg", "cls2"):
            with self.assertRaisesRegex(UserError, f"pool '{pooling}' needs a backbone with a cla"):
                features(cls=False).read(-1, pooling)
        dropped = Features(pooled=np.zeros((2, 3)), stages=(Stage(name="block1"),))
        with self.assertRaisesRegex(UserError, "block1 has no map, as patches were left out"):
            dropped.read(0, "avg")

    def test_grid(self):
        x = np.arange(16.0).reshape(1, 4, 4, 1)
        np.testing.assert_array_equal(pool(x, "grid"), [[2.5, 4.5, 10.5, 12.5]])
        np.testing.assert_array_equal(pool(x[:, :1], "grid"), np.full((1, 4), 1.5))

    def test_large_grid(self):
        """Every layer of an AlexNet and of a ResNet-50 as published; averages by hand."""
        sizes = {96: 10, 256: 6, 384: 5, 64: 12, 192: 7, 512: 4, 1024: 3, 2048: 2, 20_000: 1}
        for width, side in sizes.items():
            made = jax.eval_shape(lambda x: pool(x, "large_grid"), np.zeros((1, 13, 14, width)))
            self.assertEqual(made.shape, (1, side * side * width), width)
        x = np.random.RandomState(0).randn(2, 13, 7, 384).astype(np.float32)
        made = np.asarray(pool(x, "large_grid")).reshape(2, 5, 5, 384)
        for i, (top, bottom) in enumerate(((0, 3), (2, 6), (5, 8), (7, 11), (10, 13))):
            for j, (left, right) in enumerate(((0, 2), (1, 3), (2, 5), (4, 6), (5, 7))):
                mean = x[:, top:bottom, left:right].mean((1, 2))
                np.testing.assert_allclose(made[:, i, j], mean, rtol=1e-5, atol=1e-6)
        small = pool(x[:, :2, :3], "large_grid")
        np.testing.assert_array_equal(small, x[:, :2, :3].reshape(2, -1))

    def test_a_pytree_that_keeps_names(self):
        made = jax.tree.map(lambda x: x[:1], features())
        self.assertEqual(made.names, ["block1", "block2"])
        self.assertLen(made.pooled, 1)


if __name__ == "__main__":
    absltest.main()
