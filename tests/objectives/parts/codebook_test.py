"""The codebook against BEiT v2's quantiser and k-means: codes, loss, gradients, three updates."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.parts import codebook
from ssl_jax.objectives.parts.kmeans import kmeans
from tests.losses.forms import load
from tests.nets import weights as torch


class QuantizeTest(parameterized.TestCase):
    @parameterized.parameters((False, 1e-5), (True, 1e-9))
    def test_golden(self, wide, rtol):
        data = load("beit2_vq_ema", wide)
        dtype, decay = np.float64 if wide else np.float32, float(data["hp_decay"])
        channels_last = lambda x: np.moveaxis(x, -3, -1).astype(dtype)  # noqa: E731
        z, coef = channels_last(data["in_z"]), channels_last(data["in_coef"])

        def loss(z, book, coef):
            unit = l2_normalize(z, floor="norm")
            out = codebook.quantize(unit, book)
            after = codebook.update(book, unit, out.codes, decay)
            value = float(data["hp_beta"]) * out.commitment
            return value + jnp.sum(out.vectors * coef), (out, value, after)

        with jax.enable_x64(wide):
            step = torch.jit(jax.value_and_grad(loss, has_aux=True))
            rows = jnp.asarray(data["in_weight"], dtype)
            book = {"codes": rows, "counts": jnp.zeros(len(rows), dtype)}
            for i in range(len(z)):
                (_, (out, value, after)), slope = step(z[i], book, coef[i])
                np.testing.assert_array_equal(out.codes.reshape(-1), data["out_idx"][i])
                for ours, name in (
                    (out.vectors, "out_zq"),
                    (slope, "grad_z_loss_plus_coef"),
                    (step(z[i], book, 0 * coef[i])[1], "grad_z_loss"),
                ):
                    torch.assert_close(ours, channels_last(data[name])[i], rtol, f"{name} {i}")
                book = after
                torch.assert_close(value, data["out_loss"][i], rtol)
                torch.assert_close(book["codes"], data["out_weight"][i], rtol)
                torch.assert_close(book["counts"], data["out_cluster_size"][i], rtol)

    def test_an_unused_row_keeps_its_direction(self):
        rows = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
        book = {"codes": rows, "counts": jnp.asarray([4.0, 4.0])}
        vectors = jnp.asarray([[0.6, 0.8]])
        after = codebook.update(book, vectors, jnp.asarray([0]), 0.5)
        np.testing.assert_allclose(after["codes"][1], [0.0, 1.0])
        np.testing.assert_allclose(after["codes"][0], np.asarray([2, 1]) / 5**0.5, rtol=1e-6)
        np.testing.assert_allclose(after["counts"], [2.5, 2.0])


class KmeansTest(parameterized.TestCase):
    @parameterized.parameters((False, ""), (True, "_1iter"), (False, "_euclid"))
    def test_golden(self, wide, kind):
        data = load("beit2_kmeans_init", wide)
        dtype = np.float64 if wide else np.float32
        size, rounds = int(data["hp_K"]), 1 if kind == "_1iter" else int(data["hp_iters"])
        with jax.enable_x64(wide):
            points = jnp.asarray(data["in_x"], dtype)
            options = dict(
                spherical=kind != "_euclid",
                empty="keep",
                start=points[data["in_perm"][:size].astype(int)],
            )
            key, all_rows = jax.random.key(0), jnp.ones(len(points), bool)
            run = lambda n: kmeans(  # noqa: E731
                points, all_rows, size, key, iterations=n, **options
            )
            torch.assert_close(run(rounds).centroids, data[f"out_means{kind}"], 1e-5)
            # The release counts before the last averaging.
            np.testing.assert_array_equal(run(rounds - 1).counts, data[f"out_bins{kind}"])

    def test_a_codebook_starts_from_the_clusters_of_the_vectors(self):
        unit = l2_normalize(jnp.asarray(torch.random_images(2, 3, 4, 5)), floor="norm")
        book = codebook.kmeans_codebook(unit, 6, jax.random.key(0))
        np.testing.assert_allclose(jnp.linalg.norm(book["codes"], axis=1), 1, rtol=1e-6)
        codes = codebook.quantize(unit, book).codes
        np.testing.assert_array_equal(
            book["counts"], np.bincount(np.asarray(codes).reshape(-1), minlength=6)
        )


if __name__ == "__main__":
    absltest.main()
