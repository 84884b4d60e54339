"""Environments: the pendulum's motion and picture, stacks of frames, returns, missing packages."""

import importlib.util
import os
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.control import suite
from ssl_jax.control.environment import ControlConfig, Stacked, episode_returns, load
from ssl_jax.control.pendulum import STEP, Pendulum
from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import open_source

SETTINGS = ControlConfig(side=16, stack=3, action_repeat=2)


def hanging(angle: float = np.pi, speed: float = 0.0, side: int = 16) -> Pendulum:
    pendulum = Pendulum(side)
    pendulum._angle, pendulum._speed = angle, speed
    return pendulum


class PendulumTest(absltest.TestCase):
    def test_energy_is_conserved_without_torque(self):
        """Up to the step's size: 3/2 g cos angle + speed^2 / 2 per unit of m l^2 / 3."""
        pendulum = hanging(np.pi - 0.5)
        energy = lambda: 15 * np.cos(pendulum._angle) + pendulum._speed**2 / 2  # noqa: E731
        values = []
        for _ in range(200):
            pendulum.advance(np.zeros(1))
            values.append(energy())
        swing = 15 * (1 - np.cos(0.5))
        self.assertLess(np.ptp(values), swing * 15**0.5 * STEP)  # of a symplectic Euler step

    def test_the_torque_is_too_weak_to_lift_it_and_its_sign_is_the_action(self):
        for action in (1.0, -1.0, 5.0):
            pendulum = hanging()
            heights = []
            for _ in range(100):
                pendulum.advance(np.array([action]))
                heights.append(np.cos(pendulum._angle))
            self.assertLess(max(heights), 0.5)
            first = hanging()
            first.advance(np.array([action]))
            self.assertEqual(np.sign(first._speed), np.sign(action))
            self.assertAlmostEqual(abs(first._speed), 6 * STEP)

    def test_reward(self):
        for angle, reward in ((0.0, 1.0), (np.pi, 0.0), (np.pi / 2, 0.5)):
            self.assertAlmostEqual(hanging(angle).advance(np.zeros(1))[0], reward)

    def test_picture(self):
        """The rod points up, to the right, down; its area is its length times its width."""
        side = 40
        for angle, (row, column) in ((0, (12, 20)), (np.pi / 2, (20, 27)), (np.pi, (27, 20))):
            frame = hanging(angle, side=side).render()
            self.assertEqual((frame.shape, frame.dtype), ((side, side, 1), np.uint8))
            rows, columns = np.nonzero(frame[..., 0])
            center = np.mean(rows), np.mean(columns)
            np.testing.assert_allclose(center, (row, column), atol=1.0)
            area = (0.8 * 0.24 + np.pi * 0.12**2) * (side / 2) ** 2
            self.assertAlmostEqual(frame.sum() / 255 / area, 1, delta=0.03)

    def test_an_episode_is_a_function_of_seed_and_actions(self):
        one, two = (Stacked(Pendulum(16), SETTINGS) for _ in range(2))
        two.reset(1)
        two.step(np.ones(1))
        for environment in (one, two):
            environment.reset(7)
        draw = np.random.default_rng(0)
        for _ in range(20):
            action = draw.uniform(-1, 1, 1)
            self.assertEqual(one.step(action), two.step(action))
            np.testing.assert_array_equal(one.observation, two.observation)
        one.reset(8)
        self.assertFalse(np.array_equal(one.observation, two.observation))


class StackedTest(absltest.TestCase):
    def test_frames_and_rewards(self):
        environment, single = Stacked(Pendulum(16), SETTINGS), Pendulum(16)
        environment.reset(3)
        single.reset(3)
        frames = [single.render()] * 3
        np.testing.assert_array_equal(environment.observation, np.concatenate(frames, -1))
        for _ in range(4):
            total = sum(single.advance(np.ones(1))[0] for _ in range(2))
            frames.append(single.render())
            self.assertEqual(environment.step(np.ones(1)), (total, False))
            newest = np.concatenate(frames[-3:], -1)
            np.testing.assert_array_equal(environment.observation, newest)
        self.assertEqual(environment.length, 100)

    def test_returns_of_episodes_side_by_side(self):
        make = lambda: Stacked(Pendulum(16), SETTINGS)  # noqa: E731
        act = lambda images: np.full((len(images), 1), 0.5)  # noqa: E731
        together = episode_returns(make, act, [5, 6])
        alone = [episode_returns(make, act, [seed])[0] for seed in (5, 6)]
        np.testing.assert_array_equal(together, alone)
        self.assertTrue(np.all((together > 0) & (together < 200)))


class ErrorsTest(parameterized.TestCase):
    def test_missing_package(self):
        with (
            mock.patch.dict("sys.modules", {"dm_control": None}),
            self.assertRaisesRegex(UserError, r"control:cartpole_swingup: .*install -e '.\[rl\]'"),
        ):
            load("cartpole_swingup", 16)

    def test_an_environment_that_cannot_render(self):
        """A graphics library that is not there raises an error of its own at the first frame."""
        broken = mock.MagicMock()
        broken.suite.ALL_TASKS = (("cartpole", "swingup"),)
        modules = {"dm_control": broken, "dm_control.suite": broken.suite}
        camera = mock.MagicMock()
        camera.render.side_effect = RuntimeError("no EGL device\nmore")
        expected = "cannot render with MUJOCO_GL=egl .no EGL device.; set MUJOCO_GL to egl, osmesa"
        with (
            mock.patch.dict("sys.modules", modules),
            mock.patch.dict(os.environ, {"MUJOCO_GL": "egl"}),
            mock.patch.object(suite, "version", lambda package: "1"),
            mock.patch.object(suite, "Suite", lambda *_: camera),
            self.assertRaisesRegex(UserError, expected),
        ):
            load("cartpole_swingup", 16)

    def test_settings(self):
        with self.assertRaisesRegex(UserError, r"control.stack"):
            ControlConfig(stack=0)

    def test_as_a_data_set(self):
        source = open_source("control:pendulum").with_settings(SETTINGS)
        held = open_source("control:pendulum", "eval").with_settings(SETTINGS)
        self.assertEqual(len(source), SETTINGS.capacity)
        self.assertEqual((source.actions, source.num_classes), (1, 0))
        self.assertEqual(source.read(0).shape, (16, 16, 3))
        np.testing.assert_array_equal(source.read(5), source.read(5))
        self.assertFalse(np.array_equal(source.read(0), held.read(0)))
        other = source.with_settings(ControlConfig(side=16, stack=2, action_repeat=2))
        self.assertNotEqual(source.fingerprint(), other.fingerprint())
        again = open_source("control:pendulum").with_settings(SETTINGS)
        self.assertEqual(source.fingerprint(), again.fingerprint())


@pytest.mark.full
class SuiteTest(absltest.TestCase):
    """Needs the extra `rl`, and without it checks that it is asked for."""

    def test_cartpole(self):
        if importlib.util.find_spec("dm_control") is None:
            with self.assertRaisesRegex(UserError, r"pip install -e '.\[rl\]'"):
                load("cartpole_swingup", 84)
            return
        with self.assertRaisesRegex(UserError, "no environment 'cartpole_swing'; did you mean"):
            load("cartpole_swing", 84)
        environment = Stacked(load("cartpole_swingup", 84), ControlConfig(side=84, action_repeat=8))
        self.assertEqual((environment.environment.actions, environment.length), (1, 125))
        runs = []
        for _ in range(2):
            environment.reset(3)
            rewards = [environment.step(np.array([a]))[0] for a in (1.0, -1.0, 0.5)]
            runs.append((rewards, environment.observation))
            environment.reset(4)
        self.assertEqual(runs[0][0], runs[1][0])
        np.testing.assert_array_equal(runs[0][1], runs[1][1])
        self.assertEqual(runs[0][1].shape, (84, 84, 9))
        self.assertGreater(runs[0][1].std(), 5)


if __name__ == "__main__":
    absltest.main()
