"""The contract of a backbone, for every file in `nets/backbones`: its features, inputs, numerics,
layers and declarations.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count, map_with_name, named_leaves
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.weights import conversion
from tests.nets import weights as torch

SIDE, BATCH = 32, 2
LARGEST = 100_000  # parameters of a narrow network
KEEP = np.array([[3, 0], [1, 2]])  # of the four patches, or of more
MASK = np.array([[[0, 1], [0, 0]], [[1, 0], [0, 0]]], bool)


def narrow(name: str, channels: int = 3, **options) -> Net:
    return nets.make_backbone(name, channels, nets.backbone_class(name).narrow | options)


def takes(net: Net, **inputs) -> bool:
    """Return whether the network has an input; every other complaint is an error."""
    try:
        output_shapes(net, (SIDE, SIDE, 3), **inputs)
    except UserError as e:
        if "takes no input" in str(e):
            return False
        raise
    return True


def with_mask_token(name: str) -> Net:
    known = hasattr(nets.backbone_class(name), "mask_token")
    return narrow(name, mask_token=True) if known else narrow(name)


def check_features(test: absltest.TestCase, name: str) -> None:
    """Shapes, stages and class tokens, the finite gradient of every parameter, and dtypes."""
    net = narrow(name)
    params, stats = torch.random_variables(net)
    images = torch.random_images(BATCH, SIDE, SIDE, 3)

    def loss(params, images):
        out, updated = net.apply(params, stats, images, train=True, stages=True)
        return jnp.sum(out.pooled**2) + jnp.sum(out.map**2), (out, updated)

    run = torch.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (out, updated)), grads = run(params, images)
    test.assertEqual(jax.tree.map(jnp.shape, updated), jax.tree.map(jnp.shape, stats))
    for path, leaf in named_leaves(grads).items():
        test.assertTrue(np.isfinite(leaf).all() and np.any(leaf != 0), path)

    test.assertEqual({len(x) for x in jax.tree.leaves(out)}, {BATCH})
    test.assertEqual((out.pooled.ndim, out.map.ndim), (2, 4))
    test.assertNotEmpty(out.stages)
    test.assertLen(set(out.names), len(out.stages))
    np.testing.assert_array_equal(out.stages[-1].map, out.map)
    for stage in out.stages:
        test.assertEqual(stage.map.ndim, 4)
        test.assertEqual(stage.tokens is None, out.tokens is None)
        if stage.tokens is not None:
            # Clips have patches at several times, whose mean is the map.
            laid_out = stage.patches.reshape(BATCH, -1, *stage.map.shape[1:])
            np.testing.assert_array_equal(laid_out.mean(1), stage.map)
        if out.cls is not None:
            np.testing.assert_array_equal(stage.cls, stage.tokens[:, 0])
    if out.cls is not None:
        own = [np.asarray(stage.cls) for stage in out.stages]
        test.assertFalse(any(np.array_equal(a, b) for a, b in itertools.pairwise(own)))

    half = narrow(name, dtype="bfloat16")
    variables = jax.eval_shape(half.init, jax.random.key(0))
    test.assertEqual({x.dtype.name for x in jax.tree.leaves(variables)}, {"float32"})
    shapes = output_shapes(half, (SIDE, SIDE, 3))
    test.assertEqual((shapes.map.dtype, shapes.pooled.dtype), (jnp.bfloat16, jnp.float32))
    test.assertEqual(shapes.stages, ())


def check_inputs(test: absltest.TestCase, name: str) -> None:
    """`keep`, `mask` and `stages` work together, or the network says that it lacks one."""
    net = with_mask_token(name)
    inputs = {"keep": KEEP, "mask": MASK}
    inputs = {key: x for key, x in inputs.items() if takes(net, **{key: x[:1]})}
    params, stats = torch.random_variables(net)
    images = torch.random_images(BATCH, SIDE, SIDE, 3)

    def run(images, **inputs):
        apply = lambda x: net.apply(params, stats, x, train=False, stages=True, **inputs)[0]  # noqa: E731
        return torch.jit(apply)(images)

    if not inputs:
        return
    whole, part = run(images), run(images, **inputs)
    test.assertEqual(part.names, whole.names)
    test.assertGreater(np.abs(part.pooled - whole.pooled).max(), 1e-4)
    for stage in (part, *part.stages):
        test.assertEqual(stage.map is None, "keep" in inputs)
        if "keep" in inputs:
            test.assertEqual(stage.patches.shape[:2], KEEP.shape)
        if part.cls is not None:
            np.testing.assert_array_equal(stage.cls, stage.tokens[:, 0])


def check_layers(test: absltest.TestCase, name: str) -> None:
    """Each parameter belongs to a layer, and each layer has parameters."""
    net = with_mask_token(name)
    params = named_leaves(jax.eval_shape(net.init, jax.random.key(0))[0])
    last, used = net.config.num_layers, set[int]()
    test.assertGreater(last, 0)
    for path, leaf in params.items():
        layers = np.asarray(net.config.layer_ids(path))
        test.assertIn(layers.shape, ((), leaf.shape[:1]), path)
        used |= set(layers.ravel().tolist())
    test.assertContainsSubset(range(last + 1), used)
    test.assertContainsSubset(used, range(last + 2))


def check_declarations(test: absltest.TestCase, name: str) -> None:
    """The narrow form is small; others like it differ as asked; each variable has a name in PyTorch
    or the family says that it has none.
    """
    net = narrow(name)
    variables = jax.eval_shape(net.init, jax.random.key(0))
    test.assertLess(count(variables), LARGEST)
    shapes = output_shapes(net, (SIDE, SIDE, 3))
    side = net.config.side(30)
    test.assertEqual(output_shapes(net, (side, side, 3)).pooled, shapes.pooled)
    half = output_shapes(net.like(channels=1, scale=0.5), (SIDE, SIDE, 1))
    test.assertEqual(half.map.shape[-1] * 2, shapes.map.shape[-1])
    test.assertEqual(net.like().config, net.config)
    test.assertEqual(net.like(dtype="bfloat16").config.dtype, "bfloat16")
    with test.assertRaisesRegex(UserError, "backbone: unknown key 'dtyp'; .*dtype"):
        net.like(dtyp="bfloat16")
    with test.assertRaisesRegex(UserError, "no positive whole number"):
        net.like(scale=0.37)
    options = {"name": name} | net.config.changes()
    test.assertEqual(nets.backbone_config(name, net.config.changes()), net.config)
    zeros = map_with_name(lambda _, x: np.zeros(x.shape, x.dtype), variables[0])
    if net.config.layout:
        test.assertNotEmpty(conversion.to_timm(named_leaves(zeros), options))
    else:
        with test.assertRaisesRegex(UserError, "have no such network"):
            conversion.to_timm(named_leaves(zeros), options)


def check_any_batch(test: absltest.TestCase, name: str) -> None:
    """A batch of any size, as in exported programs (`ssl-jax export --format=stablehlo`)."""
    net = narrow(name)
    variables = jax.eval_shape(net.init, jax.random.key(0))
    (rows,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((rows, SIDE, SIDE, 3), jnp.float32)
    out = jax.eval_shape(lambda v, x: net.apply(*v, x, train=False)[0].pooled, variables, images)
    test.assertEqual(out.shape[0], rows)


CHECKS = (check_features, check_inputs, check_any_batch, check_layers, check_declarations)


class BackboneTest(parameterized.TestCase):
    @parameterized.named_parameters(
        (f"_{name}_{check.__name__.removeprefix('check_')}", name, check)
        for name in nets.BACKBONES
        for check in CHECKS
    )
    def test_contract(self, name, check):
        check(self, name)

    def test_every_input_is_taken_somewhere(self):
        for key, value in (("keep", KEEP[:1]), ("mask", MASK[:1])):
            made = map(with_mask_token, nets.BACKBONES)
            users = [net for net in made if takes(net, **{key: value})]
            self.assertNotEmpty(users, key)

    def test_unknown(self):
        with self.assertRaisesRegex(UserError, "unknown backbone 'resnett'; .*'resnet'"):
            nets.make_backbone("resnett", 3, {})
        with self.assertRaisesRegex(UserError, "resnet8: this network takes no input 'keep'"):
            output_shapes(narrow("resnet"), (SIDE, SIDE, 3), keep=KEEP[:1])
        with self.assertRaisesRegex(UserError, "channels=0"):
            narrow("resnet", 0)
        with self.assertRaisesRegex(UserError, "is no backbone"):
            Net(lambda key: ({}, {}), lambda *_, **__: None, "head").like()


if __name__ == "__main__":
    absltest.main()
