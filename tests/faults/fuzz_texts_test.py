"""Odd texts, where a user or a data set writes one: config keys and values, --data, lists,
captions. One line comes, or what was asked for.
"""

from absl.testing import absltest, parameterized
from hypothesis import HealthCheck, given, settings

from tests.faults import fuzzing

FEW = {"list": 40, "captions": 40, "data": 80, "config": 100}


class FuzzTextsTest(parameterized.TestCase):
    @parameterized.parameters(*FEW)
    def test_odd(self, name):
        kind = fuzzing.kinds()[name]

        @settings(
            max_examples=FEW[name],
            derandomize=True,
            deadline=20_000,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.draws)
        def examine(text):
            self.assertIn(kind.check(text), ("fine", "counted", "refused"))

        with fuzzing.sandbox():
            examine()

    @parameterized.parameters(
        ([("train.seed", "99999999999999999999")], "refused"),
        ([("train.seed", "7")], "fine"),
        ([("backbone.width", "1e999")], "refused"),
        ([("backbone.name", "[1]")], "refused"),
        ([("optim.lr", "(" * 5000)], "refused"),
    )
    def test_found_before(self, pairs, outcome):
        self.assertEqual(fuzzing.check_override(pairs, shapes=True), outcome)


if __name__ == "__main__":
    absltest.main()
