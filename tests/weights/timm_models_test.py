"""Networks of timm and torchvision, built there with random weights: the features of ours with the
same weights are the same, in both directions. The test needs torch, timm and torchvision.
"""

import json

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.weights import conversion, networks, timm
from ssl_jax.weights.files import TensorFile

torch = pytest.importorskip("torch")
library = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.full

SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def randomized(model):
    """Draw every weight and statistic of a model anew, so that nothing is at its initial value."""
    draws = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("num_batches_tracked", "relative_position_index")):
            continue
        around_one = name.endswith("running_var") or (tensor.ndim == 1 and "weight" in name)
        shape = tuple(tensor.shape)
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 25
        values = draws.uniform(0.5, 1.5, shape) if around_one else draws.normal(size=shape)
        values = values if around_one else values / fan_in**0.5
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def tensors_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def theirs(model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


def ours(weights, images, train=False):
    run = jax.jit(lambda *variables: weights.net.apply(*variables, images, train=train))
    with jax.default_matmul_precision("highest"):
        return np.asarray(run(*weights.variables())[0].pooled)


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


class TimmModelsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("convnext_tiny", SMALL, {"name": "convnext", "size": None} | SMALL),
        ("convnext_atto", {}, {"name": "convnext", "size": "atto"}),  # with 1x1 convolutions
        ("convnextv2_atto", {}, {"name": "convnext", "size": "atto", "grn": True}),
        ("efficientnet_b0", {}, {"name": "efficientnet", "size": "b0"}),
        ("efficientnet_b3", {}, {"size": "b3"}),
        ("tf_efficientnet_b0", {}, {"size": "b0", "padding": "same", "norm_eps": 1e-3}),
    )
    def test_same_features_by_timm_names_and_back(self, name, options, section):
        with torch.no_grad():
            model = randomized(library.create_model(name, num_classes=0, in_chans=4, **options))
        images = np.random.default_rng(1).normal(size=(2, 64, 64, 4)).astype(np.float32)
        beside = {"config": {"architecture": name}}
        weights = networks.of_file(TensorFile(tensors_of(model), {}, beside), name)
        self.assertEqual(weights.backbone | section, weights.backbone)
        self.assertEqual((weights.channels, weights.report.skipped), (4, ()))
        features = theirs(model, images)
        self.assertLess(difference(ours(weights, images), features), 1e-5)

        own = conversion.flat(*weights.variables())
        tensors, lines = timm.export(own, weights.backbone, 4, "timm")
        scope = {}
        exec("\n".join(lines), scope)
        exported = {key: torch.from_numpy(np.array(array)) for key, array in tensors.items()}
        scope["model"].load_state_dict(exported, strict=True)
        self.assertLess(difference(theirs(scope["model"].eval(), images), features), 1e-6)

    @parameterized.parameters(
        ("efficientnet", {"depths": (1, 2, 1), "widths": (8, 16, 24), "stem": "cifar"}),
        ("efficientnet", {"depths": (1,), "widths": (12,), "stem_width": 6, "head_width": 10}),
        ("convnext", {"depths": (1, 2), "dims": (8, 16), "patch": 2}),
        ("convnext", {"depths": (1,), "dims": (8,), "patch": 1, "grn": True}),
    )
    def test_thin_networks_load_in_timm(self, name, options):
        backbone = {"name": name, "size": None, **options}
        net = networks.build(backbone, 3)
        own = conversion.flat(*jax.device_get(net.init(jax.random.key(0))))
        tensors, lines = timm.export(own, backbone, 3, "timm")
        scope = {}
        exec("\n".join(lines), scope)
        model = scope["model"].eval()
        exported = {key: torch.from_numpy(np.array(array)) for key, array in tensors.items()}
        model.load_state_dict(exported, strict=True)
        images = np.random.default_rng(1).normal(size=(2, 33, 32, 3)).astype(np.float32)
        metadata = {"format": "timm", "backbone": json.dumps(backbone), "channels": "3"}
        back = networks.of_file(TensorFile(tensors, metadata), "F")
        self.assertLess(difference(ours(back, images), theirs(model, images)), 1e-5)

    @parameterized.parameters(
        ("convnext_tiny", {"size": "tiny"}), ("efficientnet_b0", {"size": "b0"})
    )
    def test_torchvision_names(self, name, section):
        with torch.no_grad():
            model = randomized(getattr(torchvision.models, name)())
        images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
        weights = networks.of_file(TensorFile(tensors_of(model), {}), name)
        self.assertEqual(weights.backbone | section, weights.backbone)
        model.classifier = model.classifier[:1] if "convnext" in name else torch.nn.Identity()
        features = theirs(model, images).reshape(2, -1)
        self.assertLess(difference(ours(weights, images), features), 1e-5)


if __name__ == "__main__":
    absltest.main()
