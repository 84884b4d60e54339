"""Damaged files of every kind: read, refused in one line, or counted as broken; nothing else.

`python benchmarks/fuzz.py` does more of the same, in processes of their own.
"""

import struct

import pytest
from absl.testing import absltest, parameterized
from hypothesis import HealthCheck, given, settings

from tests.faults import fuzzing

FEW = {"image": 120, "parquet": 30, "tar": 40, "npz": 40, "array_record": 25, "tokenizer": 25}


class FuzzFilesTest(parameterized.TestCase):
    @parameterized.parameters(*FEW)
    def test_damaged(self, name):
        kind = fuzzing.kinds()[name]

        @settings(
            max_examples=FEW[name],
            derandomize=True,
            deadline=20_000,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.draws)
        def examine(data):
            self.assertIn(kind.check(data), ("fine", "counted", "refused"))

        with fuzzing.sandbox():
            examine()

    def test_some_bits_of_a_parquet_footer(self):
        self.flip_footers(211)

    @pytest.mark.full
    def test_many_bits_of_a_parquet_footer(self):
        self.flip_footers(11)

    def flip_footers(self, stride):
        """Some of these crashed the process in Arrow, at a query for a column's size."""
        check = fuzzing.kinds()["parquet"].check
        for whole in fuzzing.parquets():
            (size,) = struct.unpack("<I", whole[-8:-4])
            begin = len(whole) - 8 - size
            with fuzzing.sandbox():
                for bit in range(0, 8 * size, stride):
                    data = bytearray(whole)
                    data[begin + bit // 8] ^= 1 << bit % 8
                    self.assertIn(check(bytes(data)), ("fine", "counted", "refused"), bit)

    def test_whole_files_are_fine(self):
        with fuzzing.sandbox():
            for data in fuzzing.images():
                self.assertEqual(fuzzing.check_image(data), "fine")
            for scheme in fuzzing.STORED:
                self.assertEqual(fuzzing.check_source(f"{scheme}:y.{scheme}"), "fine")
            self.assertEqual(fuzzing.check_tokenizer(fuzzing.tokenizer_file()), "fine")


if __name__ == "__main__":
    absltest.main()
