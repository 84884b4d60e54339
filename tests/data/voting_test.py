"""Masks of what moves, against the authors' functions, and on clips whose motion is known."""

import numpy as np
from absl.testing import absltest

from ssl_jax.data import voting
from ssl_jax.data.masks import IGNORED
from ssl_jax.data.sources import held_out
from ssl_jax.evals.davis import region_similarity
from tests.nets.weights import GOLDEN


def load():
    with np.load(GOLDEN / "unlc_votes.npz") as file:
        return dict(file)


class GoldenTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.data = load()
        counts = np.diff(self.data["in_frame_end"], prepend=-1)
        self.frame_of = np.repeat(np.arange(len(counts)), counts)
        features = self.data["in_regions"].astype(np.float64)
        self.weights = voting.transition(features, self.frame_of)

    def test_weights(self):
        np.testing.assert_allclose(self.weights.toarray(), self.data["out_transition"], atol=1e-6)

    def test_deviation_from_the_dominant_motion(self):
        for flow, dominant, want in zip(
            self.data["in_flow"], self.data["out_dominant"], self.data["out_saliency"], strict=True
        ):
            deviation = voting.deviation(flow)
            self.assertEqual(deviation is not None, bool(dominant))
            if deviation is not None:
                np.testing.assert_allclose(deviation, want, rtol=1e-5, atol=1e-6)

    def test_votes(self):
        regions = voting.number(list(self.data["in_superpixels"]))
        salience = np.maximum(self.data["out_saliency"], 0)  # -1000 without a dominant motion
        flows = min(len(salience), len(regions))  # a last frame may have none
        votes = voting.mean_of(regions[:flows], salience[:flows] / salience.max())
        np.testing.assert_allclose(votes, self.data["out_votes0"][: len(votes)], rtol=1e-5)
        first = self.data["out_votes0"].astype(np.float64)
        votes = voting.consensus(first, self.weights, self.frame_of, 10)
        np.testing.assert_allclose(votes, self.data["f64_out_votes_after10"], atol=1e-6)
        np.testing.assert_allclose(votes[regions], self.data["out_mask_after10"], atol=1e-6)
        # Between its rounds of ten the authors' code removes nothing, so they are fifty.
        votes = voting.consensus(first, self.weights, self.frame_of, 50)
        np.testing.assert_allclose(votes[regions], self.data["out_mask_5x10"], atol=1e-6)

    def test_small_blobs(self):
        threshold = self.data["hp_blob_bin_th"]
        for mask, want in zip(
            self.data["in_blob_mask"], self.data["out_blob_relsize06"], strict=True
        ):
            large = voting.large_blobs(mask > threshold, least=1)
            np.testing.assert_array_equal(large & (mask > threshold), want > threshold)


class SegmentTest(absltest.TestCase):
    def test_exact_flow_finds_the_digit_better_than_the_centre_does(self):
        source, clip = held_out("moving_digits"), 3  # its camera stands
        y, x = (np.mgrid[:32, :32] + 0.5) / 32 - 0.5
        centre = np.exp(-(y**2 + x**2) / (2 * 0.25**2)) > 0.5
        frames = np.stack([source.read_frame(clip, t) for t in range(5, 13)])

        def flow(i, j):
            to_next = source.read_flow(clip, 5 + i)[..., ::-1]  # (x, y)
            return to_next * (1 if j > i else -1)

        masks = voting.segment(frames, flow, side=96)
        self.assertEqual((masks.shape, masks.dtype), (frames.shape[:3], np.uint8))
        self.assertContainsSubset(np.unique(masks), {0, 1, IGNORED})
        true = source.read_mask(clip) == 1
        score = region_similarity(masks[3] == 1, true)
        self.assertGreater(score, 2 * region_similarity(centre, true))

    def test_a_still_clip_has_no_masks(self):
        frame = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
        self.assertIsNone(voting.segment(np.stack([frame] * 10), side=48))

    def test_a_clip_without_dominant_motion_has_no_masks(self):
        draw = np.random.default_rng(0)
        frames = draw.integers(0, 256, (10, 24, 24, 3)).astype(np.uint8)
        chaos = 5 * draw.normal(size=(10, 100, 100, 2))
        self.assertIsNone(voting.segment(frames, lambda i, j: chaos[i]))

    def test_superpixels_follow_edges(self):
        frame = np.zeros((40, 40, 3), np.uint8)
        frame[:, 17:] = (200, 40, 40)
        regions = voting.superpixels(frame, 25)
        self.assertEqual(np.unique(regions).tolist(), list(range(regions.max() + 1)))
        self.assertBetween(regions.max() + 1, 10, 25)
        left, right = set(regions[:, :16].flat), set(regions[:, 18:].flat)
        self.assertEmpty(left & right)


if __name__ == "__main__":
    absltest.main()
