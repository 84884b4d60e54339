"""Networks in files of the user's own: flax.nnx, flax.linen, the contract; what cannot be read."""

import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import named_leaves
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.outputs import as_features
from tests.nets import weights as torch

NNX = """
import jax
from flax import nnx

class Tiny(nnx.Module):
    def __init__(self, channels, width: int = 4, scales: tuple[float, ...] = (1, 2), *,
                 act=jax.nn.relu, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, width, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.last = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)

    def __call__(self, x):
        first = jax.nn.relu(self.norm(self.conv(x)))
        return first, self.last(first)
"""
LINEN = """
from flax import linen as nn

class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), strides=2)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))

class Tiny(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, train: bool):
        return Block(self.width)(x, train).mean((1, 2))

make = Tiny
"""
FUNCTION = """
from flax import nnx

def make(channels, *, rngs, width: int = 3):
    return nnx.Sequential(nnx.Conv(channels, width, (2, 2), strides=2, rngs=rngs), nnx.relu)
"""


class FileTest(parameterized.TestCase):
    def file(self, text, name="own.py"):
        path = Path(self.create_tempdir().full_path) / name
        path.write_text(textwrap.dedent(text))
        return str(path)


class OwnTest(FileTest):
    @parameterized.parameters(
        (NNX, {"width": 4, "scales": (1.0, 2.0)}, (8,), (4, 4, 8), ["stage1", "output"]),
        (LINEN, {"width": 4, "image_size": 224}, (4,), (1, 1, 4), ["output"]),
        (FUNCTION, {"width": 3}, (3,), (8, 8, 3), ["output"]),
    )
    def test_its_arguments_are_options_and_its_output_is_features(
        self, text, options, pooled, shape, names
    ):
        path = self.file(text)
        net = nets.make_backbone(path, 2, {})
        self.assertEqual(net.name, "own")
        values = {key: getattr(net.config, key) for key in options}
        self.assertEqual(values, options)
        out = output_shapes(net, (16, 16, 2), stages=True)
        self.assertEqual((out.pooled.shape, out.map.shape), (pooled, shape))
        self.assertEqual(out.names, names)
        wide = nets.make_backbone(path, 2, {"width": 8})
        self.assertEqual(wide.config, net.config.changed(width=8))
        self.assertNotEqual(output_shapes(wide, (16, 16, 2)).pooled.shape, pooled)
        with self.assertRaisesRegex(UserError, "unknown key 'widht'; did you mean 'width'"):
            nets.make_backbone(path, 2, {"widht": 8})
        with self.assertRaisesRegex(UserError, "backbone.width: expected"):
            nets.make_backbone(path, 2, {"width": "wide"})

    @parameterized.parameters(NNX, LINEN)
    def test_batch_norm_sees_the_batch_in_training_only(self, text):
        net = nets.make_backbone(self.file(text), 3, {})
        params, stats = torch.random_variables(net)
        images = torch.random_images(4, 16, 16, 3)
        run = torch.jit(net.apply, static_argnames=("train", "microbatches"))
        out, updated = run(params, stats, images, train=True)
        again, same = run(params, stats, images, train=False)
        for path, leaf in named_leaves(updated).items():
            self.assertGreater(np.abs(leaf - named_leaves(stats)[path]).max(), 0, path)
        self.assertTrue(jax.tree.all(jax.tree.map(np.array_equal, same, stats)))
        self.assertGreater(np.abs(out.pooled - again.pooled).max(), 1e-4)
        halves, _ = run(params, stats, images, train=False, microbatches=2)
        np.testing.assert_allclose(halves.pooled, again.pooled, rtol=1e-5, atol=1e-6)

    def test_a_file_that_changes_is_read_again(self):
        path = Path(self.file(FUNCTION))
        self.assertEqual(nets.backbone_config(str(path), {}).width, 3)
        path.write_text(FUNCTION.replace("width: int = 3", "width: int = 55"))
        self.assertEqual(nets.backbone_config(str(path), {}).width, 55)

    def test_dtype_reaches_a_network_that_takes_it(self):
        text = """
        from flax import linen as nn
        class Tiny(nn.Module):
            dtype: object = None
            @nn.compact
            def __call__(self, x):
                return nn.Conv(4, (2, 2), dtype=self.dtype)(x)
        """
        net = nets.make_backbone(self.file(text), 3, {"dtype": "bfloat16"})
        shapes = output_shapes(net, (8, 8, 3))
        self.assertEqual((shapes.map.dtype, shapes.pooled.dtype), (jnp.bfloat16, jnp.float32))
        with self.assertRaisesRegex(UserError, "backbone.dtype: own.py takes no dtype"):
            nets.make_backbone(self.file(NNX), 3, {"dtype": "bfloat16"})


class RefusalTest(FileTest):
    @parameterized.parameters(
        ("x = 1", "own.py holds neither a flax module nor a Config; add a line make ="),
        (
            LINEN.replace("make = Tiny", ""),
            "holds several candidates, Block, Tiny; add a line make",
        ),
        ("make = 3", "own.py: make is a int, not a network"),
        ("import no_such_library", "own.py, line 1: ModuleNotFoundError: No module named"),
        ("def make(", "own.py, line 1: "),
        (NNX.replace("width: int = 4", "width"), "the argument 'width' of its network has no type"),
        (NNX.replace("width", "side"), "the argument 'side' of its network means something else"),
    )
    def test_a_file_without_a_network(self, text, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            nets.backbone_config(self.file(text), {})
        self.assertNotIn("\n", str(caught.exception))

    def test_no_file(self):
        with self.assertRaisesRegex(UserError, "backbone.name: no network file '/none/own.py'"):
            nets.make_backbone("/none/own.py", 3, {})

    @parameterized.parameters(
        ("return 3", r"own.py: its output is a int; expected features \(B, D\), tokens"),
        ("return x, 1", r"its output is \(float32 \(1, 8, 8, 3\), a int\); expected features"),
        ("return {'logits': x}", "its output has an unknown part 'logits'; known: cls, map"),
        ("return {'pooled': x}", r"its output 'pooled' is float32 \(1, 8, 8, 3\) for 1 images"),
        ("return x.sum((1, 2, 3))[0:0, None]", r"'pooled' is float32 \(0, 1\) for 1 images"),
        ("return x.mean((1, 2)) > 0", "'pooled' is bool.* expected floats of 2 axes"),
        ("return x.reshape(7)", "own.py, line 7: TypeError: cannot reshape"),
        ("return self.dropout(x)", "own.py, line 7: AttributeError"),
    )
    def test_an_output_that_is_no_feature(self, line, message):
        text = f"""
        from flax import nnx
        class Tiny(nnx.Module):
            def __init__(self, rngs):
                self.scale = nnx.Param(rngs.normal((3,)))
            def __call__(self, x):
                {line}
        """
        net = nets.make_backbone(self.file(text.lstrip("\n")), 3, {})
        message = message.replace("line 7", "line 6")
        with self.assertRaisesRegex(UserError, message):
            output_shapes(net, (8, 8, 3))

    @parameterized.parameters(
        ("nnx.Dropout(0.1, rngs=rngs)", "holds RngCount, RngKey; only nnx.Param and nnx.BatchStat"),
        ("nnx.Linear(3, 3, rngs=rngs, param_dtype='bfloat16')", "variables of bfloat16; expected"),
        ("no_such_name", "own.py, line 4: NameError: name 'no_such_name'"),
    )
    def test_a_network_that_cannot_be_trained_here(self, layer, message):
        text = f"""
        from flax import nnx
        class Tiny(nnx.Module):
            def __init__(self, rngs):
                self.layer = {layer}
            def __call__(self, x):
                return self.layer(x)
        """
        net = nets.make_backbone(self.file(text.lstrip("\n")), 3, {})
        with self.assertRaisesRegex(UserError, message):
            output_shapes(net, (8, 8, 3))

    def test_weights_of_another_image_size(self):
        text = """
        from flax import linen as nn
        class Tiny(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(4)(x.reshape(len(x), -1))
        """
        net = nets.make_backbone(self.file(text), 3, {})
        with self.assertRaisesRegex(
            UserError, "made for images of 224 px; set backbone.image_size"
        ):
            output_shapes(net, (8, 8, 3))
        net = nets.make_backbone(self.file(text), 3, {"image_size": 8})
        self.assertEqual(output_shapes(net, (8, 8, 3)).pooled.shape, (4,))

    def test_inputs_that_only_the_contract_has(self):
        net = nets.make_backbone(self.file(NNX), 3, {})
        with self.assertRaisesRegex(UserError, "own: this network takes no input 'keep'"):
            output_shapes(net, (8, 8, 3), keep=np.zeros((1, 2), int))
        with self.assertRaisesRegex(UserError, "own has no widths to scale"):
            net.like(scale=0.5)


class OutputsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"tokens": (2, 4, 3)}, (2, 3), (2, 2, 2, 3)),
        ({"tokens": (2, 5, 3), "cls": (2, 3)}, (2, 3), (2, 2, 2, 3)),
        ({"tokens": (2, 6, 3)}, (2, 3), None),
        ({"map": (2, 1, 2, 3), "pooled": (2, 7)}, (2, 7), (2, 1, 2, 3)),
        ({"cls": (2, 3)}, (2, 3), (2, 1, 1, 3)),
    )
    def test_parts(self, shapes, pooled, shape):
        draws = np.random.default_rng(0)
        parts = {k: jnp.asarray(draws.normal(size=s), jnp.bfloat16) for k, s in shapes.items()}
        out = as_features(parts, 2, stages=True)
        self.assertEqual((out.pooled.shape, out.pooled.dtype), (pooled, jnp.float32))
        self.assertEqual(out.map if shape is None else out.map.shape, shape)
        (last,) = out.stages
        self.assertIs(last.map, out.map)
        if "cls" in parts:
            np.testing.assert_array_equal(out.pooled, parts["cls"])
        elif "tokens" in parts:
            mean = np.asarray(parts["tokens"], np.float32).mean(1)
            np.testing.assert_allclose(out.pooled, mean, rtol=1e-5, atol=1e-6)

    def test_features_of_the_contract_stay(self):
        features = Features(pooled=jnp.zeros((2, 3)))
        self.assertIs(as_features(features, 2), features)


if __name__ == "__main__":
    absltest.main()
