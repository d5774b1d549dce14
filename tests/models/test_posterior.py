"""What a variational encoder says of a latent, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from imginav_jax.models.posterior import Posterior, kl_divergence, sample


def test_the_divergence_is_the_integral_that_defines_it():
    means, variances = [0.0, 0.5, -2.0], [1.0, 0.25, 3.0]

    def integrate(mean, variance):
        here, prior = scipy.stats.norm(mean, variance**0.5), scipy.stats.norm(0, 1)
        return scipy.integrate.quad(lambda x: here.pdf(x) * (here.logpdf(x) - prior.logpdf(x)), -15, 15)[0]

    posterior = Posterior(jnp.array([[[means]]]), jnp.log(jnp.array([[[variances]]])))
    expected = [integrate(*each) for each in zip(means, variances, strict=True)]
    np.testing.assert_allclose(kl_divergence(posterior), [expected], rtol=1e-5, atol=1e-7)


def test_each_channel_of_each_image_is_the_mean_over_its_cells():
    mean = jnp.arange(2 * 2 * 3 * 2, dtype=jnp.float32).reshape(2, 2, 3, 2)
    found = kl_divergence(Posterior(mean, jnp.zeros_like(mean)))  # half the squared mean, with a variance of 1
    np.testing.assert_allclose(found, (np.asarray(mean) ** 2 / 2).mean((1, 2)), rtol=1e-6)


def test_a_sample_has_the_posteriors_mean_and_variance():
    noise = jax.random.normal(jax.random.key(0), (1, 200, 200, 1))
    mean = jnp.full(noise.shape, 3.0)
    drawn = sample(Posterior(mean, jnp.full(noise.shape, np.log(0.25))), noise)
    assert float(drawn.mean()) == pytest.approx(3, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.01)
    np.testing.assert_array_equal(sample(Posterior(mean, None), None), mean)


def test_a_deterministic_encoder_has_no_divergence():
    with pytest.raises(ValueError, match="a deterministic encoder has no KL divergence"):
        kl_divergence(Posterior(jnp.zeros((1, 1, 1, 1)), None))
