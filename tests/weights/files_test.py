"""Files of tensors: round trips are exact; wrong files give one line, and no code is run."""

import collections
import importlib.util
import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import files

TENSORS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(2.5, np.float32),
    "narrow": np.array([1, 1.5, -3], ml_dtypes.bfloat16),
    "count": np.array([7], np.int64),
}


def _member(shape):
    """Return the bytes of an .npy with this shape in its header and no data."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _text(value):
    file = io.BytesIO()
    np.save(file, np.array(value))
    return file.getvalue()


class Evil:
    """Object that creates the file `mark` when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def test_a_header_whose_length_begins_as_a_pickle_does(self):
        path, pad = self.folder / "w.safetensors", 0
        while not path.exists() or path.read_bytes()[:1] != b"\x80":  # lengths are multiples of 8
            files.write(path, TENSORS, {"format": "ssl_jax", "pad": " " * (pad := pad + 8)})
        self.assertEqual(files.read(path).metadata["format"], "ssl_jax")

    @parameterized.parameters(".safetensors", ".npz")
    def test_round_trip(self, suffix):
        path = self.folder / f"w{suffix}"
        files.write(path, TENSORS, {"method": "x", "config": '{"a": 1}'})
        content = files.read(path)
        self.assertEqual(dict(content.metadata), {"method": "x", "config": '{"a": 1}'})
        self.assertEqual(set(content.tensors), set(TENSORS))
        for name, array in TENSORS.items():
            self.assertEqual(content.tensors[name].dtype, array.dtype)
            self.assertEqual(content.tensors[name].shape, array.shape)
            np.testing.assert_array_equal(content.tensors[name], array)
        self.assertEqual([p.name for p in self.folder.iterdir()], [path.name])

    def test_the_format_is_recognised_by_content(self):
        files.write(self.folder / "w.safetensors", TENSORS, {})
        (self.folder / "w.safetensors").rename(self.folder / "w.pth")
        self.assertEqual(set(files.read(self.folder / "w.pth").tensors), set(TENSORS))

    @parameterized.parameters(
        ("page.pth", b"\n<!DOCTYPE html><html>404</html>", "web page"),
        ("empty.pth", b"", "is empty"),
        ("lfs.npz", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("text.safetensors", b"hello", "not a file of weights"),
        ("noise.pth", bytes(range(3, 200)), "not a file of weights"),
        ("header.safetensors", b"\xff" * 7 + b'\x00{"a"', "not a complete safetensors"),
        ("zip.npz", b"PK\x03\x04 cut short", "truncated or corrupt"),
    )
    def test_wrong_files(self, name, content, message):
        (self.folder / name).write_bytes(content)
        self.assert_one_line(self.folder / name, message)

    @parameterized.parameters(".safetensors", ".npz")
    def test_a_file_cut_short_anywhere(self, suffix):
        path = self.folder / f"w{suffix}"
        files.write(path, TENSORS, {"k": "v"})
        whole = path.read_bytes()
        for share in (0.05, 0.3, 0.7, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            self.assert_one_line(path, "not a complete|truncated")

    def test_a_flipped_bit_of_a_compressed_one(self):
        arrays = {name: np.asarray(array, np.float32) for name, array in TENSORS.items()}
        np.savez_compressed(self.folder / "w.npz", **arrays)
        whole, draws = (self.folder / "w.npz").read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            flipped = bytearray(whole)
            flipped[draws.integers(len(flipped))] ^= 1 << int(draws.integers(8))
            (self.folder / "z.npz").write_bytes(flipped)
            try:
                files.read(self.folder / "z.npz")
            except UserError as e:
                self.assertLen(str(e).splitlines(), 1)

    @parameterized.parameters(
        ("a", _member((2**40, 4)), r"a of shape \(1099511627776, 4\) needs .* 0 are in the file"),
        ("a", b"\x93NUMPY\x01\x00\x46\x00" + b"(" * 70, "is corrupt or"),
        ("a", b"\x93NUMPY\x07\x00", "unknown version of .npy"),
        ("a", _text(["text"]), "a holds <U4, not numbers"),
        ("__metadata__", _text("[1]"), "not a JSON object of strings"),
        ("__metadata__", _text("[" * 100_000), "not JSON: nested too deeply"),
        ("__metadata__", _text('{"a": 1}'), "not a JSON object of strings"),
        ("__metadata__", _text('{"__bfloat16__": ["b"]}'), "'b', which is not a bfloat16 tensor"),
    )
    def test_hostile_arrays(self, name, content, message):
        with zipfile.ZipFile(self.folder / "m.npz", "w") as archive:
            archive.writestr(f"{name}.npy", content)
        self.assert_one_line(self.folder / "m.npz", message)

    def in_parts(self, **where):
        """Two files of tensors and their index, in which `where` replaces entries."""
        safetensors.numpy.save_file({"a": np.ones(2)}, self.folder / "m-1.safetensors")
        safetensors.numpy.save_file({"b": np.zeros(3)}, self.folder / "m-2.safetensors")
        listed = {"a": "m-1.safetensors", "b": "m-2.safetensors"} | where
        index = self.folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        return index

    def test_several_files(self):
        index = self.in_parts()
        (self.folder / "config.json").write_text('{"hidden_size": 8}')
        for path in (index, self.folder):
            content = files.read(path)
            self.assertEqual({k: len(v) for k, v in content.tensors.items()}, {"a": 2, "b": 3})
            self.assertEqual(content.beside, {"config": {"hidden_size": 8}})
        (self.folder / "config.json").write_text('{"objective": {}}')  # of a run of ours
        self.assertEqual(files.read(index).beside, {})
        (self.folder / "config.json").write_text("[" * 100_000)
        with self.assertRaisesRegex(UserError, "cannot read .*config.json: nested too deeply"):
            files.read(index)

    @parameterized.parameters(
        ({"b": "m-3.safetensors"}, "index.json lists m-3.safetensors, but there is no such file"),
        ({"b": "../m-2.safetensors"}, "expected a file in the same folder"),
        ({"b": 7}, "expected a file in the same folder"),
        ({"c": "m-1.safetensors"}, "m-1.safetensors holds no tensor c"),
    )
    def test_an_index_that_does_not_fit(self, where, message):
        self.assert_one_line(self.in_parts(**where), message)

    def test_folder_and_nothing(self):
        self.assert_one_line(self.folder, r"holds neither a run .* nor weights \(model.safetensors")
        for name in ("a.pth", "b.pth"):
            (self.folder / name).write_bytes(b"x")
        self.assert_one_line(self.folder, "several files of weights; choose one, for example a.pth")
        self.assert_one_line(self.folder / "no.npz", "no file")

    def test_no_code_is_run(self):
        mark = self.folder / "mark"
        for protocol in (2, 4):
            content = pickle.dumps({"weights": Evil(mark)}, protocol)
            (self.folder / "a.pth").write_bytes(content)
            with zipfile.ZipFile(self.folder / "b.pth", "w") as archive:
                archive.writestr("archive/data.pkl", content)
                archive.writestr("archive/data/0", b"\x00" * 8)
            for name in ("a.pth", "b.pth"):
                self.assert_one_line(self.folder / name, r"holds code \((io|_io)\.open\)")
        np.savez(self.folder / "c.npz", a=np.array([Evil(mark)], dtype=object))
        self.assert_one_line(self.folder / "c.npz", "more than plain arrays")
        self.assertFalse(mark.exists())

    def test_without_torch_it_says_how_to_convert(self):
        (self.folder / "w.pth").write_bytes(pickle.dumps({"a": 1}, 2))
        with mock.patch.dict(sys.modules, {"torch": None}):
            self.assert_one_line(self.folder / "w.pth", r"save_file\(torch.load\('w.pth', weights")

    @absltest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
    def test_pytorch(self):
        import argparse

        import torch

        state = {"model": {"a": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}}
        for zipped in (True, False):
            torch.save(
                state | {"args": argparse.Namespace(lr=1.0), "epoch": 3},
                self.folder / "w.pth",
                _use_new_zipfile_serialization=zipped,
            )
            tensors = files.read(self.folder / "w.pth").tensors
            self.assertEqual(set(tensors), {"model.a", "model.b"})
            np.testing.assert_array_equal(tensors["model.b"], np.ones(2, np.float32))

    @absltest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
    def test_settings_beside_the_tensors(self):
        import torch

        module = types.ModuleType("omegaconf.dictconfig")
        module.DictConfig = type("DictConfig", (), {"__module__": module.__name__})
        settings = module.DictConfig()
        settings.__dict__ |= {"lr": 0.1, "of": dict, "kind": int}
        beside = {
            "cfg": settings,
            "best": np.float64(0.5),
            "steps": np.int64(3),
            "out": Path("/x"),
            "scores": collections.defaultdict(dict, {"knn": torch.ones(3)}),
            "set": {1, 2},
        }
        modules = {"omegaconf": types.ModuleType("omegaconf"), module.__name__: module}
        with mock.patch.dict(sys.modules, modules):
            torch.save({"model": {"a": torch.ones(2)}} | beside, self.folder / "w.pth")
        tensors = files.read(self.folder / "w.pth").tensors  # without omegaconf
        self.assertEqual(set(tensors), {"model.a", "scores.knn"})

    @absltest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
    def test_hostile_tensors(self):
        import torch

        path, itself = self.folder / "w.pth", {"a": torch.ones(2)}
        itself["itself"] = itself
        torch.save(itself, path)
        self.assert_one_line(path, "is corrupt: RecursionError")
        torch.save({"a": torch.ones(1).expand(2**20, 2**20)}, path)
        self.assert_one_line(path, r"a of shape \(1048576, 1048576\) does not fit into a file of")
        torch.save({"a": (getattr, "x")}, path)
        self.assert_one_line(path, r"holds code \(__builtin__.getattr\)")

    def test_a_failed_write_leaves_nothing(self):
        with self.assertRaisesRegex(UserError, "cannot write .*nowhere"):
            files.write(self.folder / "nowhere" / "w.npz", TENSORS, {})
        with self.assertRaisesRegex(UserError, "ends in .safetensors or .npz"):
            files.write(self.folder / "w.pth", TENSORS, {})
        self.assertEqual(list(self.folder.iterdir()), [])

    def assert_one_line(self, path, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            files.read(path)
        self.assertLen(str(caught.exception).splitlines(), 1)
        self.assertIn(path.name, str(caught.exception))


if __name__ == "__main__":
    absltest.main()
