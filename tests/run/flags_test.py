"""Values of the command line: texts until the type of their key is known."""

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import Text
from ssl_jax.evals.protocols.knn import Knn
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.run import configs, flags


class FlagsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("10,20", ["10", "20"]),
        ("(1, 5),(1,10)", ["(1, 5)", "(1,10)"]),
        ("none,-1", ["none", "-1"]),
        ("/a,/b", ["/a", "/b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("007,x", ["007", "x"]),
        ("é,1", ["é", "1"]),
    )
    def test_texts(self, text, expected):
        self.assertEqual(flags.texts(text), expected)

    def test_literals(self):
        self.assertEqual(flags.values("1,(2, 3),none,a"), [1, (2, 3), None, "a"])

    def test_overrides_take_the_type_of_their_key(self):
        config = configs.load_config("simclr:digits")
        words = {
            "data.labelled": "5",
            "data.cache": "none",
            "data.eval": "none",
            "optim.lr_scaling": "none",
            "optim.clip_norm": "none",
            "optim.lr": "1",
            "train.init_from": "7",
            "backbone.width": "8",
            "objective.view.recipe": "none",
            "objective.view.area": "0.5,1",
            "objective.temperature": "1",
            "evals.knn.k": "3",
            "evals.protocols": "knn, linear",
            "evals.fewshot.shots": "5",
        }
        configs.override(config, [(key, Text(text)) for key, text in words.items()])
        flat = {key: self.at(config, key) for key in words}
        expected = ("5", "none", None, "none", None, 1, "7", 8, "none", (0.5, 1), 1, 3)
        expected += (("knn", "linear"), (5,))
        self.assertEqual(flat, dict(zip(words, expected, strict=True)))
        self.assertFalse([value for value in flat.values() if isinstance(value, Text)])

    def at(self, config, key):
        for part in key.split("."):
            config = config[part]
        return config

    @parameterized.parameters(
        ("optim.lr", "fast", "optim.lr: expected float, got 'fast'"),
        ("backbone.width", "-3", "backbone.width: expected a whole number of at least 1, got -3"),
        ("objective.view.size", "big", r"view.size: expected int \| tuple\[int, int\], got 'big'"),
        ("objective.temprature", "1", None),  # an unknown key is left to the builder
    )
    def test_errors_name_the_key(self, key, text, message):
        config = configs.load_config("simclr:digits")
        if message is None:
            configs.override(config, [(key, Text(text))])
            return
        with self.assertRaisesRegex(UserError, message):
            configs.override(config, [(key, Text(text))])

    def test_sweeps_take_the_type_of_their_setting(self):
        from ssl_jax.cli.evaluate import grid
        from ssl_jax.run.suites import settings

        variants = settings(Knn(), "knn", grid(["k=5,10", "stage=none,-2"]))
        self.assertEqual(
            {(p.k, p.stage) for p in variants}, {(5, None), (5, -2), (10, None), (10, -2)}
        )
        (linear,) = settings(Linear(), "linear", grid(["weight_decay=1"]))
        self.assertIsInstance(linear.weight_decay, float)
        with self.assertRaisesRegex(UserError, "knn.k: expected int, got 'few'"):
            settings(Knn(), "knn", grid(["k=few"]))


if __name__ == "__main__":
    absltest.main()
