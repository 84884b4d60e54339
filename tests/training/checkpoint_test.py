"""Checkpoints: which are kept, are damaged, do not fit, or cannot be written.

Kills and real runs: tests/faults.
"""

import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssl_jax.core.errors import UserError
from ssl_jax.training import checkpoint, checkpoint_format, manifest
from ssl_jax.training.checkpoint import CheckpointConfig, Checkpoints
from ssl_jax.training.state import TrainState

ROWS = 64


def state(step, devices=1, rows=ROWS, dtype=np.float32):
    """Create a small state, with its matrix split by rows over `devices`."""
    split, whole = shardings(devices)
    values = np.arange(rows * 3, dtype=dtype).reshape(rows, 3) + step
    number = lambda x, kind: jax.device_put(kind(x), whole)  # noqa: E731
    return TrainState(
        step=number(step, np.int32),
        seed=number(7, np.uint32),
        skipped=number(0, np.int32),
        in_row=number(0, np.int32),
        bad_step=number(-1, np.int32),
        params={"kernel": jax.device_put(values, split)},
        extra={"queue": jax.device_put(values * 2, split)},
        opt_state=(number(step, np.int32),),
    )


def shardings(devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


def like(made):
    """Return the abstract state and the shardings of a state."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)
    return abstract, jax.tree.map(lambda x: x.sharding, made)


class CheckpointTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.warnings = []

    def open(self, reader=False, **config):
        return Checkpoints(self.folder, CheckpointConfig(**config), reader, self.warnings.append)

    def save(self, *steps, metrics=None, **config):
        with self.open(**config) as checkpoints:
            for step in steps:
                measured = {} if metrics is None else {"eval/x": metrics[step]}
                checkpoints.save(step, state(step), {"step": step}, measured)
            checkpoints.finish()
            return checkpoints.steps

    def resumed(self, made=None):
        with self.open() as checkpoints:
            return checkpoints.resume(*like(made or state(0)))

    def test_from_one_device_to_eight_and_back(self):
        for before, after in ((1, 8), (8, 2)):
            shutil.rmtree(self.folder, ignore_errors=True)
            with self.open() as checkpoints:
                checkpoints.save(4, state(4, before), {"a": [1, "b"]})
            restored = self.resumed(state(0, after))
            self.assertEqual((restored.step, restored.metadata), (4, {"a": [1, "b"]}))
            self.assertLen(restored.state.params["kernel"].sharding.device_set, after)
            for a, b in zip(*map(jax.tree.leaves, (restored.state, state(4))), strict=True):
                np.testing.assert_array_equal(a, b)

    def test_what_is_kept(self):
        steps = range(1, 9)
        self.assertEqual(self.save(*steps, keep=2), [7, 8])
        self.assertEqual(self.save(*steps, keep=1, keep_every=3), [3, 6, 8])
        values = dict(zip(steps, [0.1, 0.9, 0.2, 0.9, 0.3, float("nan"), 0.1, 0.2], strict=True))
        self.assertEqual(self.save(*steps, metrics=values, keep=1, best="eval/x"), [4, 8])
        self.assertEqual(self.save(*steps, metrics=values, keep=1, best="-eval/x"), [7, 8])
        self.assertEqual(self.save(*steps, keep=1, best="eval/x"), [8])  # never measured

    def test_the_same_step_is_not_saved_twice(self):
        self.save(4)
        written = (self.folder / "4" / manifest.NAME).stat().st_mtime_ns
        with self.open() as checkpoints:
            latest = checkpoints.resume(*like(state(0)))
            checkpoints.save(4, latest.state, {})
            checkpoints.finish()
        self.assertEqual((self.folder / "4" / manifest.NAME).stat().st_mtime_ns, written)

    def test_training_waits_for_a_save_if_asked(self):
        done = threading.Event()
        threading.Timer(1.0, done.set).start()

        def slow(*args, **kwargs):
            done.wait()
            return write(*args, **kwargs)

        write = manifest.write
        with mock.patch.object(manifest, "write", slow):
            with self.open(wait=True) as checkpoints:
                checkpoints.save(4, state(0), {})
                self.assertEqual(checkpoints.steps, [4])
            done.clear()
            with self.open() as checkpoints:
                checkpoints.save(8, state(0), {})
                self.assertEqual(checkpoints.steps, [4])
                done.set()
        self.assertEqual(self.open(reader=True).steps, [4, 8])

    def test_every_file_that_is_cut_flipped_or_gone_is_noticed(self):
        self.save(4)
        folder_copy = Path(self.create_tempdir().full_path) / "kept"
        shutil.copytree(self.folder, folder_copy)
        names = [p.relative_to(folder_copy) for p in folder_copy.rglob("*") if p.is_file()]
        self.assertGreater(len(names), 6)
        for name in names:
            data = (folder_copy / name).read_bytes()
            flipped = bytearray(data or b"x")
            flipped[len(flipped) // 2] ^= 4
            for harm in (bytes(flipped), data[:-1] if data else b"\0", None):
                shutil.rmtree(self.folder)
                shutil.copytree(folder_copy, self.folder)
                (self.folder / name).unlink()
                if harm is not None:
                    (self.folder / name).write_bytes(harm)
                unfinished = harm is None and name.name == manifest.NAME
                if unfinished:
                    self.assertIsNone(self.resumed())
                else:
                    with self.assertRaisesRegex(UserError, "no checkpoint in .* is whole"):
                        self.resumed()
                self.assertRegex(
                    self.warnings[-1], "checkpoint 4 is not used: .*moved to 4.damaged"
                )

    def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(self):
        self.save(4, 8)
        (self.folder / "8" / "state" / "_METADATA").unlink()
        self.assertEqual(self.resumed().step, 4)
        self.assertRegex(self.warnings[0], r"checkpoint 8 is not used: state/_METADATA is missing")
        self.assertCountEqual([p.name for p in self.folder.iterdir()], ["4", "8.damaged"])
        self.assertEqual(self.save(8), [4, 8])  # made again

    def test_one_that_is_not_finite_is_not_used(self):
        self.save(4)
        bad = dataclasses.replace(state(8), params={"kernel": state(8).params["kernel"] * jnp.nan})
        with self.open() as checkpoints:
            checkpoints.save(8, bad, {})
        self.assertEqual(self.resumed().step, 4)
        self.assertRegex(self.warnings[0], "8 is not used: it holds numbers that are not finite")

    def test_a_file_that_does_not_belong_there(self):
        self.save(4)
        (self.folder / "4" / "state" / "more").write_text("")
        self.assertEqual(manifest.damage(self.folder / "4"), "state/more does not belong there")

    def test_restoring_a_damaged_one_by_its_number(self):
        self.save(4, 8)
        (self.folder / "8" / "state" / "_METADATA").write_text("{}")
        with (
            self.open(reader=True) as checkpoints,
            self.assertRaisesRegex(UserError, "checkpoint 8 in .* is damaged: .*; others: 4$"),
        ):
            checkpoints.restore(8, *like(state(0)))
        self.assertTrue((self.folder / "8").exists())

    @parameterized.parameters(
        (dict(rows=32), r"extra/queue is float32\[64, 3\], expected float32\[32, 3\]$"),
        (dict(dtype=np.float16), r"extra/queue is float32\[64, 3\], expected float16\[64, 3\]$"),
    )
    def test_another_shape_or_type_does_not_fit(self, other, message):
        self.save(4)
        with self.assertRaisesRegex(UserError, "checkpoint 4 does not fit this run: " + message):
            self.resumed(state(0, **other))
        self.assertTrue((self.folder / "4").exists())

    def test_what_a_dying_process_left_is_cleared_or_set_aside(self):
        self.save(4)
        half = self.folder / "8.orbax-checkpoint-tmp"
        half.mkdir()
        shutil.copytree(self.folder / "4", self.folder / "8")
        (self.folder / "8" / manifest.NAME).unlink()
        with self.open(reader=True) as checkpoints:
            self.assertEqual(checkpoints.steps, [4])
        self.assertTrue(half.exists())  # another process may be at it
        self.assertEqual(self.resumed().step, 4)
        self.assertFalse(half.exists())
        self.assertRegex(self.warnings[0], "8 is not used: it has no manifest.json")

    @parameterized.parameters("r[1]x", "back\\slash", "a*b", "\udcff")
    def test_a_path_that_storage_layers_read_something_into(self, name):
        self.folder = self.folder / name / "checkpoints"
        self.assertEqual(self.save(4), [4])
        self.assertEqual(self.warnings, [])
        self.assertEqual(self.resumed().metadata, {"step": 4})

    def test_such_a_path_is_the_same_in_all_processes(self):
        """Once each process had its own link, and every save of two processes failed."""
        self.folder = self.folder / "r[1]x" / "checkpoints"
        self.save(4)
        with mock.patch.object(jax, "process_count", return_value=2):
            paths = {Checkpoints(self.folder, reader=True)._stored(4) for _ in range(2)}
        (path,) = paths
        self.addCleanup(path.parent.unlink)
        self.assertNotIn("[", str(path))
        self.assertTrue(path.samefile(self.folder / "4"))
        path.parent.unlink()
        path.parent.symlink_to("/somewhere")  # by somebody else
        with (
            mock.patch.object(jax, "process_count", return_value=2),
            self.assertRaisesRegex(UserError, "is not ours"),
        ):
            Checkpoints(self.folder, reader=True)._stored(4)

    def test_one_that_cannot_be_read_back_does_not_count(self):
        self.save(4)
        nothing = mock.Mock(metadata={})
        with (
            self.open() as checkpoints,
            mock.patch.object(checkpoint.ocp, "metadata", return_value=nothing),
        ):
            checkpoints.save(8, state(8), {})
            checkpoints.wait()
            self.assertEqual(checkpoints.steps, [4])
        self.assertRegex(self.warnings[0], "step 8 could not be saved, .* it cannot be read back: ")

    def test_a_newer_format_is_refused_in_one_line(self):
        with mock.patch.object(checkpoint_format, "UPGRADES", (dict,)):
            self.save(4)
        self.assertEqual(manifest.read(self.folder / "4")["format"], 2)
        with self.open() as checkpoints:
            for read in (
                lambda: checkpoints.resume(*like(state(0))),
                lambda: checkpoints.restore(4, *like(state(0))),
                lambda: checkpoints.metadata(4),
            ):
                with self.assertRaisesRegex(
                    UserError, r"^checkpoint 4 in .* has format 2, [^\n]*$"
                ):
                    read()
        self.assertTrue((self.folder / "4").exists())  # it is not damaged

    def test_an_older_format_is_upgraded(self):
        """Format 1 is that of the manifests without a number."""
        write = manifest.write
        unnumbered = lambda folder, format, **facts: write(folder, **facts)  # noqa: E731
        with mock.patch.object(manifest, "write", unnumbered):
            self.save(4)
        self.save(8)
        upgrades = (lambda metadata: metadata | {"added": 1},)
        with self.open() as checkpoints:
            self.assertEqual(checkpoints.metadata(4), {"step": 4})
            with mock.patch.object(checkpoint_format, "UPGRADES", upgrades):
                self.assertEqual(checkpoints.metadata(4), {"step": 4, "added": 1})
                resumed = checkpoints.resume(*like(state(0)))
        self.assertEqual((resumed.step, resumed.metadata["added"]), (8, 1))

    def test_files_are_on_the_disk_before_the_manifest(self):
        there = []

        def sync(path):
            there.append((path.name, (self.folder / "4" / manifest.NAME).exists()))

        with mock.patch.object(manifest, "sync", sync):
            self.save(4)
        *before, last = there
        names = {name for name, _ in before}
        self.assertTrue({"_METADATA", "manifest.ocdbt", "state", "4"} <= names, names)
        self.assertFalse(any(complete for _, complete in before))
        self.assertEqual(last, (self.folder.name, True))

    def test_what_was_half_removed_is_cleaned(self):
        self.save(4, 8, keep=3)
        (self.folder / "4" / manifest.NAME).unlink()
        (self.folder / "4" / "state" / "_METADATA").unlink()
        (self.folder / "2.removed" / "state").mkdir(parents=True)
        self.save(12, keep=3)
        self.assertCountEqual([p.name for p in self.folder.iterdir()], ["8", "12"])

    def test_a_removal_that_is_killed_leaves_no_checkpoint(self):
        self.save(4)
        killed = mock.patch.object(shutil, "rmtree", side_effect=[None, KeyboardInterrupt])
        with killed, self.assertRaises(KeyboardInterrupt):
            checkpoint._remove(self.folder / "4")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["4.removed"])

    def test_names_that_are_no_steps(self):
        self.save(4)
        for name in ("²", "007", "-1", "4.5", "٣", "1" * 30):
            (self.folder / name).mkdir()
            (self.folder / name / manifest.NAME).touch()
        (self.folder / "9").touch()
        self.assertEqual(manifest.numbered(self.folder), [4])
        self.assertEqual(self.resumed().step, 4)

    def test_the_metric_of_the_best_is_misspelt(self):
        self.save(4, 8, metrics={4: 0.5, 8: 0.6}, best="-eval/y")
        first, end = self.warnings
        self.assertRegex(first, "'eval/y' was not measured at step 4, .*did you mean 'eval/x'")
        self.assertRegex(end, "no checkpoint has the metric 'eval/y'; did you mean 'eval/x'")
        self.warnings.clear()
        self.save(12, metrics={12: 0.1}, best="eval/x")
        self.assertEqual(self.warnings, [])

    def test_a_save_that_fails_is_told_and_leaves_nothing(self):
        self.save(4)
        with self.open() as checkpoints:
            error = OSError(28, "No space left on device")
            with mock.patch.object(manifest, "write", side_effect=error):
                checkpoints.save(8, state(8), {})
                checkpoints.wait()
            self.assertEqual([p.name for p in self.folder.iterdir()], ["4"])
            self.assertRegex(
                self.warnings[0], "step 8 could not be saved, .*No space left on device"
            )
            with self.assertRaisesRegex(UserError, "step 8 could not be saved: .* from step 4$"):
                checkpoints.finish()
            checkpoints.save(8, state(8), {})  # there is room again
            checkpoints.finish()
            self.assertEqual(checkpoints.steps, [4, 8])

    def test_a_disk_that_is_slow_is_told(self):
        write = manifest.write

        def slowly(*args, **facts):
            time.sleep(0.5)
            write(*args, **facts)

        with (
            mock.patch.object(manifest, "write", slowly),
            mock.patch.object(checkpoint, "SLOW", 0.1),
            self.open() as checkpoints,
        ):
            checkpoints.save(4, state(4), {})
            checkpoints.save(8, state(8), {})
        self.assertLen(self.warnings, 1)
        self.assertRegex(self.warnings[0], "step 8: the last checkpoint was still .*waited")
        self.assertEqual(self.resumed().step, 8)

    def test_prune_by_hand(self):
        self.save(1, 2, 3, 4, keep=4)
        (self.folder / "3.damaged").mkdir()
        (self.folder / "4" / manifest.NAME).unlink()
        with self.open(keep=2) as checkpoints:
            self.assertEqual(checkpoints.prune(), ["1"])
            self.assertCountEqual(checkpoints.prune(damaged=True), ["3.damaged", "4"])

    def test_the_manifest(self):
        self.save(4, metrics={4: 0.5})
        contents = manifest.read(self.folder / "4")
        self.assertEqual(contents["metrics"], {"eval/x": 0.5})
        self.assertEqual(manifest.damage(self.folder / "4"), "")
        files = [p for p in (self.folder / "4").rglob("*") if p.is_file()]
        written = sum(p.stat().st_size for p in files if p.name != manifest.NAME)
        self.assertEqual(manifest.size(contents), written)
        path = self.folder / "4" / manifest.NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"eval/x": 0.9}}))
        self.assertEqual(manifest.read(self.folder / "4"), {})

    @parameterized.parameters({"every": -1}, {"keep": 0}, {"keep_every": -2})
    def test_bad_configs(self, **keys):
        with self.assertRaisesRegex(
            UserError, rf"checkpoint.{next(iter(keys))}: expected a whole number of at least"
        ):
            CheckpointConfig(**keys)


if __name__ == "__main__":
    absltest.main()
