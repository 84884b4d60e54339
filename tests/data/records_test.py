import numpy as np
from absl.testing import absltest, parameterized
from tensorflow_datasets.proto import tf_example_pb2  # an independent reader and writer

from ssl_jax.data import records as r


def message(**features) -> bytes:
    """The bytes that protobuf makes."""
    example = tf_example_pb2.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(feature, kind).value.extend(values)
    return example.SerializeToString()


class RecordTest(parameterized.TestCase):
    @parameterized.parameters(
        (r.Record(b""),),
        (r.Record(bytes(range(256)) * 300, 7),),
        (r.Record(b"image", -1, ("a dog", "ein Hund läuft", "")),),
        (r.Record(b"image", 2**40),),
    )
    def test_round_trip(self, record):
        self.assertEqual(r.decode(r.encode(record)), record)

    def test_protobuf_reads_what_is_written(self):
        data = r.encode(r.Record(b"\0image\xff", -3, ("one", "two")))
        feature = tf_example_pb2.Example.FromString(data).features.feature
        self.assertEqual(feature["image/encoded"].bytes_list.value, [b"\0image\xff"])
        self.assertEqual(feature["image/class/label"].int64_list.value, [-3])
        self.assertEqual(feature["image/caption"].bytes_list.value, [b"one", b"two"])

    def test_what_protobuf_writes_is_read(self):
        numbers = [0, 1, 127, 128, 300, -1, 2**62, -(2**63)]
        features = r.decode_features(message(i=numbers, f=[0.5, -2.0], b=[b"x", b""], one=[5]))
        np.testing.assert_array_equal(features["i"], numbers)
        np.testing.assert_array_equal(features["f"], np.float32([0.5, -2.0]))
        self.assertEqual((features["b"], features["one"].tolist()), ([b"x", b""], [5]))
        self.assertEqual((features["i"].dtype, features["f"].dtype), (np.int64, np.float32))
        self.assertEqual(r.decode_features(b""), {})

    def test_lists_that_are_not_packed(self):
        values = b"\x08\x07\x08\xac\x02"  # 1: 7, 1: 300
        entry = (
            b"\x0a\x01n\x12" + bytes([len(values) + 2]) + b"\x1a" + bytes([len(values)]) + values
        )
        data = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
        self.assertEqual(list(tf_example_pb2.Example.FromString(data).features.feature), ["n"])
        np.testing.assert_array_equal(r.decode_features(data)["n"], [7, 300])

    def test_other_names(self):
        data = message(image=[b"i"], label=[4], text=[b"hi"], file_name=[b"x"])
        self.assertEqual(r.decode(data), r.Record(b"i", 4, ("hi",), "x"))

    def test_labels_that_are_none(self):
        for label, odd in (([4, 5], "2 numbers"), ([b"cat"], "text"), ([1.5], "1.5")):
            record = r.decode(message(left=[b"i"], label=label), ("left",))
            self.assertEqual(record, r.Record(b"i", odd_label=odd))
        floats = [r.decode(message(image=[b"i"], label=[x])).label for x in (2.0, float("nan"))]
        self.assertEqual(floats, [2, -1])

    def test_a_caption_that_is_no_utf8(self):
        data = r.encode(r.Record(b"i", captions=("bad \ud800 x",)))
        self.assertEqual(r.decode(data).captions, ("bad ? x",))

    @parameterized.parameters(
        (b"\xff\xd8 a JPEG", "not a tf.train.Example"),
        (b"\x0a\x05ab", "not a tf.train.Example"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not a tf.train.Example"),
        (message(label=[1], z=[b""]), "no image under image/encoded or .*; it holds label, z"),
        (message(image=[1]), "no image under"),
        (b"", "no image .*; it holds nothing"),
    )
    def test_bad(self, data, message):
        with self.assertRaisesRegex(r.RecordError, message):
            r.decode(data)

    def test_no_cut_of_a_record_raises_anything_else(self):
        data = r.encode(r.Record(b"image", 300, ("a", "b")))
        for end in range(len(data)):
            with self.assertRaises(r.RecordError):
                r.decode(data[:end])


if __name__ == "__main__":
    absltest.main()
