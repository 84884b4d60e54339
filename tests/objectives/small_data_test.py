"""A data set smaller than a memory, or without the labels that a method needs, is one clear line.

Every method is tested that has such a setting; the names are those of the fields.
"""

import dataclasses

import jax
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.run.configs import load_method, methods
from tests.objectives import harness

# Numbers of images: drawn as noise, kept in a queue, in a sliding window, among recent ones.
SIZES = ("negatives", "queue_size", "window", "recent")
MEMORIES = [
    (method, field.name)
    for method in methods()
    for field in dataclasses.fields(load_method(method).make.__self__)
    if field.name in SIZES
]


class SmallDataTest(parameterized.TestCase):
    def refuse(self, method, message, **changes):
        """Build the method with `changes` and its state, which must end in one line."""
        made = harness.experiment(method).objective
        with self.assertRaisesRegex(UserError, message) as caught:
            jax.eval_shape(dataclasses.replace(made, **changes).init, jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))

    @parameterized.parameters(*MEMORIES)
    def test_a_memory_of_more_images_than_there_are(self, method, field):
        made = harness.experiment(method)
        if field == "window" and made.objective.inputs().window is None:
            self.skipTest("a window of pixels, not of examples")
        count = made.spec.num_examples
        size = (count // harness.BATCH + 1) * harness.BATCH  # whole batches, as queues need
        self.refuse(method, rf"^objective.{field}: .*\b{count}\b", **{field: size})

    def test_methods_with_a_memory_are_among_them(self):
        names = {method for method, _ in MEMORIES}
        self.assertContainsSubset({"instdisc", "nce", "cmc", "pirl", "pic", "moco_v2"}, names)

    def test_labels_that_are_missing(self):
        refused = set()
        for method in methods():
            made = harness.experiment(method).objective
            if made.inputs().label:
                with self.subTest(method):
                    spec = dataclasses.replace(made.spec, num_classes=0)
                    self.refuse(method, "needs labels of at least two classes", spec=spec)
                    refused.add(method)
        self.assertContainsSubset({"s4l", "supcon", "supervised"}, refused)


if __name__ == "__main__":
    absltest.main()
