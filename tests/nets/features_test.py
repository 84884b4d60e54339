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
    stages = tuple(Stage(name=f"block{i + 1}", map=x, cls=t) for i, (x, t) in each)
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

    @parameterized.parameters(
        (2, "avg", "no stage 2 among the backbone's 2"),
        (-3, "avg", "no stage -3"),
        (0, "pooled", "after its last stage; stage 0 has avg, grid and cls"),
        (-1, "max", "unknown pooling 'max'"),
    )
    def test_errors(self, number, pooling, message):
        with self.assertRaisesRegex(UserError, message):
            features().read(number, pooling)

    def test_absent_parts(self):
        with self.assertRaisesRegex(UserError, "needs a backbone with a class token"):
            features(cls=False).read(-1, "cls")
        dropped = Features(pooled=np.zeros((2, 3)), stages=(Stage(name="block1"),))
        with self.assertRaisesRegex(UserError, "block1 has no map, as patches were left out"):
            dropped.read(0, "avg")

    def test_grid(self):
        x = np.arange(16.0).reshape(1, 4, 4, 1)
        np.testing.assert_array_equal(pool(x, "grid"), [[2.5, 4.5, 10.5, 12.5]])
        np.testing.assert_array_equal(pool(x[:, :1], "grid"), np.full((1, 4), 1.5))

    def test_a_pytree_that_keeps_names(self):
        made = jax.tree.map(lambda x: x[:1], features())
        self.assertEqual(made.names, ["block1", "block2"])
        self.assertLen(made.pooled, 1)


if __name__ == "__main__":
    absltest.main()
