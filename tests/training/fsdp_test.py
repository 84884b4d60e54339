"""`mesh.fsdp=8` changes nothing but memory."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.step import make_train_step
from tests.objectives import harness


def bytes_per_device(abstract, placed):
    """Return the bytes that one device holds."""
    sizes = jax.tree.map(
        lambda a, s: int(np.prod(s.shard_shape(a.shape))) * a.dtype.itemsize, abstract, placed
    )
    return sum(jax.tree.leaves(sizes))


def vit_b(**mesh):
    """DINO with a ViT-B/16, whose teacher is as large as the trained networks."""
    config = load_config("dino:imagenet")
    config["spec"] = {
        "global_batch": 64,
        "num_examples": 1_281_167,
        "num_classes": 1000,
        "steps_per_epoch": 20018,
        "total_steps": 100_000,
    }
    override(config, [("backbone.size", "base"), ("train.batch_size", 64), *mesh.items()])
    return Experiment.from_config(config)


class FsdpTest(parameterized.TestCase):
    def test_an_eighth_of_the_memory(self):
        whole, split = vit_b(), vit_b(**{"mesh.data": 1, "mesh.fsdp": 8})
        for part in ("params", "opt_state", "extra"):
            abstract = getattr(whole.abstract_state, part)
            most = bytes_per_device(abstract, getattr(whole.placed, part))
            least = bytes_per_device(abstract, getattr(split.placed, part))
            self.assertEqual(
                most, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
            )
            self.assertLessEqual(least, most / 6, part)
            self.assertGreater(most, 4 * 85_000_000, part)  # a ViT-B lies in each of them

    def test_the_same_losses(self):
        """A method with a teacher and a queue."""
        runs = []
        for mesh in ({"data": 8}, {"data": 1, "fsdp": 8}):
            made = harness.experiment("moco_v2", **mesh)
            step = make_train_step(made.objective, made.tx, made.schedule, made.mesh, made.placed)
            current, losses = state.create(made.objective, made.tx, 0, made.placed), []
            _, batches = made.training_batches(0, 5)
            for batch in batches:
                current, metrics = step(current, batch)
                losses.append(float(metrics["train/loss"]))
            runs.append(losses)
            if "fsdp" in mesh:
                for part in (current.params, current.extra["key_encoder"]):
                    leaves = tree.named_leaves(part)
                    self.assertTrue(any(x.sharding.spec for x in leaves.values()))
        self.assertLen(runs[0], 5)
        np.testing.assert_allclose(runs[1], runs[0], rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
