"""A pendulum to swing up with too weak a motor, drawn in NumPy: control without a simulator."""

import numpy as np

GRAVITY, LENGTH, MASS = 10.0, 1.0, 1.0  # m/s^2, m, kg
TORQUE, SPEED, STEP = 2.0, 8.0, 0.05  # largest torque (N m) and speed (rad/s); seconds of a step
ROD, WIDTH = 0.8, 0.12  # length and half the width of the rod, in half sides of the frame


class Pendulum:
    """A rod of uniform mass that turns about its end, with the constants of the usual benchmark (a
    torque of 2 N m against a weight of 5 N m). Each step has the reward (1 + cos angle) / 2: 1
    while it stands upright, 0 while it hangs.
    """

    name, version = "pendulum", "1"
    actions, channels, length = 1, 1, 200

    def __init__(self, side: int) -> None:
        centers = (np.arange(side) + 0.5) / side * 2 - 1
        self._down, self._right = np.meshgrid(centers, centers, indexing="ij")
        self._angle, self._speed = 0.0, 0.0  # radians from upright, clockwise, and per second

    def reset(self, seed: int) -> None:
        draws = np.random.default_rng(seed).random(2)
        self._angle, self._speed = (2 * draws[0] - 1) * np.pi, 2 * draws[1] - 1

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        reward = (1 + np.cos(self._angle)) / 2
        torque = TORQUE * float(np.clip(action[0], -1, 1))
        weight = 3 * GRAVITY / (2 * LENGTH) * np.sin(self._angle)
        change = weight + 3 / (MASS * LENGTH**2) * torque
        self._speed = float(np.clip(self._speed + change * STEP, -SPEED, SPEED))
        self._angle += self._speed * STEP
        return float(reward), False

    def render(self) -> np.ndarray:
        """Draw the rod in white on black, with smooth edges: (side, side, 1) uint8."""
        right, up = np.sin(self._angle), np.cos(self._angle)
        along = np.clip(self._right * right - self._down * up, 0, ROD)
        distance = np.hypot(self._right - along * right, self._down + along * up)
        pixel = 2 / len(self._down)
        shade = np.clip((WIDTH - distance) / pixel + 0.5, 0, 1)
        return (255 * shade + 0.5).astype(np.uint8)[..., None]


def load(name: str, side: int) -> Pendulum:
    """Make the pendulum; frames are `side` pixels wide."""
    del name
    return Pendulum(side)
