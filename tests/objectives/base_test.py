"""Defaults of a method: its inputs, its networks, and an error where something is missing."""

from dataclasses import dataclass

import jax
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Inputs, Objective, Spec, View

SPEC = Spec(8, 100, 10, 10, 10, channels=1)
NET = resnet_small(width=4, channels=1)


@dataclass(frozen=True)
class OneView(Objective):
    view: View = View(16)

    @property
    def networks(self):
        return self.backbone_and(head=mlp_head(self.feature_dim, (3,)))


@dataclass(frozen=True)
class SeveralViews(Objective):
    views: tuple[View, ...] = (View(16), View(8, 4))


class ObjectiveTest(absltest.TestCase):
    def test_inputs_are_the_views_it_names(self):
        self.assertEqual(OneView(NET, SPEC).inputs(), Inputs(views=(View(16),)))
        several = SeveralViews(NET, SPEC)
        self.assertEqual(several.inputs(), Inputs(views=(View(16), View(8, 4))))

    def test_a_method_without_views_is_told(self):
        with self.assertRaisesRegex(UserError, "Objective: no field `view` or `views`; define one"):
            Objective(NET, SPEC).inputs()

    def test_params_and_statistics_of_its_networks(self):
        made = OneView(NET, SPEC, microbatches=2)
        params, extra = made.init(jax.random.key(0))
        self.assertEqual(set(params), {"backbone", "head"})
        self.assertEqual(set(extra), {"stats"})
        self.assertEqual(params["head"]["linear1"]["kernel"].shape, (made.feature_dim, 3))
        self.assertEqual(made.networks.microbatches, 2)

    def test_a_backbone_without_patches(self):
        with self.assertRaisesRegex(UserError, "no patches, but the method needs any backbone"):
            _ = OneView(NET, SPEC).patch_grid


if __name__ == "__main__":
    absltest.main()
