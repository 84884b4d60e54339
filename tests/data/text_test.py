import numpy as np
from absl.testing import absltest

from ssl_jax.data import text
from ssl_jax.data.text import END, FIRST_BYTE, PADDING, START, caption_tokens, tokens


class TextTest(absltest.TestCase):
    def test_tokens(self):
        a, b = ord("a") + FIRST_BYTE, ord("b") + FIRST_BYTE
        np.testing.assert_array_equal(tokens("ab", 6), [START, a, b, END, PADDING, PADDING])
        np.testing.assert_array_equal(tokens("abab", 4), [START, a, b, END])
        np.testing.assert_array_equal(tokens("", 3), [START, END, PADDING])

    def test_every_text_fits_and_the_end_is_the_highest(self):
        got = tokens("\u00e9\U0001f600\x00", 20)
        self.assertEqual(got.max(), END)
        self.assertEqual(text.VOCABULARY, END + 1)
        inside = got[1 : got.argmax()] - FIRST_BYTE
        self.assertEqual(bytes(inside.astype(np.uint8)).decode(), "\u00e9\U0001f600\x00")

    def test_a_caption_each_by_seed_epoch_and_index(self):
        captions = [("a", "b", "c", "d"), (), ("e",)] * 40
        index = np.arange(120, dtype=np.int32)
        first = caption_tokens(captions, index, 5, 0, 0)
        np.testing.assert_array_equal(first[::-1], caption_tokens(captions, index[::-1], 5, 0, 0))
        self.assertEqual(set(first[::3, 1] - FIRST_BYTE), set(b"abcd"))
        self.assertTrue((first[1::3, 1] == END).all())
        for seed, epoch in ((1, 0), (0, 1)):
            other = caption_tokens(captions, index, 5, seed, epoch)
            self.assertTrue((other[::3] != first[::3]).any())
            np.testing.assert_array_equal(other[2::3], first[2::3])


if __name__ == "__main__":
    absltest.main()
