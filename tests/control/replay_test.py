"""The replay: batches against a plain list of observations, the ring, files; the acting loop."""

from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.control.acting import ActingLoop
from ssl_jax.control.environment import ControlConfig, Stacked
from ssl_jax.control.pendulum import Pendulum
from ssl_jax.control.replay import Replay, crop
from ssl_jax.core.errors import UserError

SIDE, SIZE, BATCH = 9, 7, 6
FRAME = (SIDE, SIDE, 1)


class Short(Pendulum):
    """Episodes of 20 agent steps; every third one ends for good after 17."""

    length = 40

    def reset(self, seed):
        super().reset(seed)
        self.steps, self.ends = 0, seed % 3 == 0

    def advance(self, action):
        self.steps += 1
        return super().advance(action)[0], self.ends and self.steps == 34


def settings(capacity=1000, random_steps=5) -> ControlConfig:
    return ControlConfig(
        side=SIDE, stack=3, action_repeat=2, capacity=capacity, random_steps=random_steps
    )


def act(observation, number):
    """A policy that depends on what it sees, and on the step's number."""
    return np.float32([[np.sin(observation.sum() / 100 + number)]])


class ReplayTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path) / "replay"

    def loop(self, config, start=0, folder=None) -> ActingLoop:
        environment = Stacked(Short(SIDE), config)
        replay = Replay(folder or self.folder, config, FRAME, 1)
        options = {"seed": 3, "batch_size": BATCH, "size": SIZE, "start": start}
        return ActingLoop(environment, replay, config, **options)

    def fresh(self, config, step, folder=None) -> ActingLoop:
        """The loop of a new run, after it has acted for the batch of `step`."""
        loop = self.loop(config, folder=folder)
        loop.collect(act, 0)
        loop.collect(act, step)
        return loop

    def test_batches_are_those_of_a_list_of_observations(self):
        """Stacks do not reach over the beginning of an episode, nor the next observation over its
        end; the anchor and the positive are two crops of one observation.
        """
        config = settings()
        loop = self.loop(config)
        environment, history = loop._environment, []
        original = environment.step

        def step(action):
            before = environment.observation
            reward, ended = original(action)
            history.append((before, action, reward, ended, environment.observation))
            return reward, ended

        environment.step = step
        loop.collect(act, 0)
        loop.collect(act, 60)
        self.assertLen(history, 5 + 60 + 1)
        self.assertTrue(any(ended for *_, ended, _ in history))
        draws = np.random.default_rng(0).random((600, 7))
        batch = loop._replay.batch(draws, SIZE)
        corners = (draws[:, 1:] * (SIDE - SIZE)).astype(int).reshape(-1, 3, 2)
        self.assertEqual(set(batch["index"].tolist()), set(range(len(history))))
        for i, number in enumerate(batch["index"]):
            before, action, reward, ended, after = history[number]
            for v, (name, image) in enumerate(
                (("anchor", before), ("positive", before), ("following", after))
            ):
                expected = crop(image[None], corners[i, v][None], SIZE)[0]
                np.testing.assert_array_equal(batch[name][i], expected)
            np.testing.assert_array_equal(batch["action"][i], np.float32(action))
            self.assertAlmostEqual(batch["reward"][i], reward, places=6)
            self.assertEqual(batch["continues"][i], 0.0 if ended else 1.0)

    def test_the_ring_holds_the_newest_steps(self):
        large, small = (self.fresh(settings(c), 90, self.folder / str(c)) for c in (1000, 32))
        self.assertEqual(small._replay.oldest, 96 - 32)
        draws = np.random.default_rng(1).random((50, 7))
        same = draws.copy()
        same[:, 0] = (64 + draws[:, 0] * 32) / 96
        for name, values in small._replay.batch(draws, SIZE).items():
            if name != "index":
                np.testing.assert_array_equal(values, large._replay.batch(same, SIZE)[name], name)

    @parameterized.parameters(1, 17, 35, 60)
    def test_a_run_that_resumes_makes_the_same_batches(self, stop):
        """Also after the run had gone on beyond the checkpoint, into further episodes, and if its
        later files are still there.
        """
        config = settings(capacity=48)

        def batches(loop, start, end):
            for step in range(start, end):
                loop.collect(act, step)
                yield next(loop)

        whole = list(batches(self.loop(config), 0, 70))
        folder = self.folder / "other"
        loop = self.loop(config, folder=folder)
        list(batches(loop, 0, stop))
        loop.save()
        list(batches(loop, stop, stop + 30))
        loop.save()
        again = list(batches(self.loop(config, stop, folder), stop, 70))
        for one, two in zip(whole[stop:], again, strict=True):
            np.testing.assert_array_equal(one["views"][0], two["views"][0])
            np.testing.assert_array_equal(one["views"][1], two["views"][1])
            for name in ("action", "reward", "continues", "index"):
                np.testing.assert_array_equal(one[name], two[name])

    def test_a_new_run_removes_what_an_older_one_left(self):
        self.fresh(settings(), 50).save()
        self.assertGreater(len(list(self.folder.glob("*.npz"))), 2)
        self.fresh(settings(), 0).save()
        self.assertLen(list(self.folder.glob("*.npz")), 1)

    def test_missing_and_damaged_files(self):
        self.fresh(settings(), 49).save()
        path = self.folder / "episode_000001.npz"
        content = path.read_bytes()
        path.write_bytes(content[:-20])
        with self.assertRaisesRegex(UserError, "episode_000001.npz is damaged .*; restore it"):
            self.loop(settings()).collect(act, 50)
        path.unlink()
        message = "episode_000001.npz is missing: the run has made 55 agent steps and .* holds 17"
        with self.assertRaisesRegex(UserError, message):
            self.loop(settings()).collect(act, 50)

    def test_a_crop_is_the_same_for_all_frames_of_a_stack(self):
        frame = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 1), np.uint8)
        stack = np.repeat(frame, 3, axis=-1)
        out = crop(stack, np.array([[1, 2]]), SIZE)
        np.testing.assert_array_equal(out[..., 0], out[..., 2])
        np.testing.assert_array_equal(out[0, ..., 0], frame[0, 1 : 1 + SIZE, 2 : 2 + SIZE, 0])


if __name__ == "__main__":
    absltest.main()
