import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data import text
from ssl_jax.data.text import BYTES, PADDING, open_tokenizer

CAPTIONS = [
    ("A dog runs over the grass .", "the dog is running"),
    ("Two children play in the snow .",),
    (),
    ("a dog and two children",),
] * 10


class BytesTest(absltest.TestCase):
    def test_tokens(self):
        a, b = ord("a") + 1, ord("b") + 1
        start, end = BYTES.start, BYTES.end
        np.testing.assert_array_equal(BYTES.tokens("ab", 6), [start, a, b, end, PADDING, PADDING])
        np.testing.assert_array_equal(BYTES.tokens("abab", 4), [start, a, b, end])
        np.testing.assert_array_equal(BYTES.tokens("", 3), [start, end, PADDING])

    def test_every_text_fits_and_the_end_is_the_highest(self):
        got = BYTES.tokens("\u00e9\U0001f600\x00", 20)
        self.assertEqual(got.max(), BYTES.end)
        self.assertEqual(BYTES.vocabulary, BYTES.end + 1)
        inside = got[1 : got.argmax()] - 1
        self.assertEqual(bytes(inside.astype(np.uint8)).decode(), "\u00e9\U0001f600\x00")

    def test_a_caption_each_by_seed_epoch_and_index(self):
        captions = [("a", "b", "c", "d"), (), ("e",)] * 40
        index = np.arange(120, dtype=np.int32)
        draw = lambda index, seed, epoch: BYTES.caption_tokens(captions, index, 5, seed, epoch)  # noqa: E731
        first = draw(index, 0, 0)
        np.testing.assert_array_equal(first[::-1], draw(index[::-1], 0, 0))
        self.assertEqual(set(first[::3, 1] - 1), set(b"abcd"))
        self.assertTrue((first[1::3, 1] == BYTES.end).all())
        for seed, epoch in ((1, 0), (0, 1)):
            other = draw(index, seed, epoch)
            self.assertTrue((other[::3] != first[::3]).any())
            np.testing.assert_array_equal(other[2::3], first[2::3])


class LearnedTest(parameterized.TestCase):
    def test_shorter_than_bytes_and_nothing_is_lost(self):
        import tokenizers

        made = open_tokenizer("train:300", CAPTIONS)
        self.assertBetween(made.pieces, 257, 300)
        self.assertEqual(made.vocabulary, made.end + 1)
        for sentence in ("the dog and the children", "\u00e9\U0001f600 unseen words!"):
            ids = made.tokens(sentence, 60)
            pieces = [int(i) - 1 for i in ids[1 : ids.argmax()]]
            decoded = tokenizers.Tokenizer.from_str(made.json).decode(pieces)
            self.assertEqual(decoded.strip(), sentence)
        self.assertLess(len(made.split("the dog and the children")), 12)
        self.assertEqual(list(made.split("The DOG")), list(made.split("the dog")))

    def test_halves_of_characters(self):
        learned = open_tokenizer("train:300", [["bad \ud800 x"]] * 20)
        np.testing.assert_array_equal(learned.split("a \ud800"), learned.split("a ?"))

    def test_the_same_captions_give_the_same_file(self):
        made = open_tokenizer("train:290", CAPTIONS)
        self.assertEqual(made.json, open_tokenizer("train:290", CAPTIONS).json)
        again = text.from_json(made.json, "tokenizer.json")
        np.testing.assert_array_equal(again.tokens("two dogs", 9), made.tokens("two dogs", 9))

    def test_a_supplied_file(self):
        path = self.create_tempfile(content=text.learn(CAPTIONS, 280)).full_path
        self.assertEqual(open_tokenizer(path).json, open_tokenizer("train:280", CAPTIONS).json)

    def test_user_errors(self):
        bad = self.create_tempfile(content="{}").full_path
        for spec, captions, message in (
            ("train:many", CAPTIONS, "at least 256"),
            ("train:100", CAPTIONS, "at least 256"),
            ("train:300", None, "needs captions"),
            ("nowhere.json", CAPTIONS, "no file 'nowhere.json'"),
            (bad, CAPTIONS, "not a tokenizer file"),
        ):
            with self.assertRaisesRegex(UserError, message):
                open_tokenizer(spec, captions)


if __name__ == "__main__":
    absltest.main()
