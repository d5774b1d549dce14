"""A program for a platform that is not here takes that one's convolutions and compiler options."""

import logging

import jax
import jax.numpy as jnp
import pytest

from imginav_jax.devices import target
from imginav_jax.models import convolutions
from imginav_jax.system import progress
from imginav_jax.system.errors import UserError


def dilations(convolution):
    """Whether zeros are put between the inputs, of every convolution in `convolution` and its gradient."""
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((4, 4, 2, 2))
    gradient = jax.value_and_grad(lambda x, kernel: convolution(x, kernel).sum(), (0, 1))
    lines = jax.jit(gradient).lower(x, kernel).as_text().splitlines()
    return ["lhs_dilate = [2, 2]" in line for line in lines if "stablehlo.convolution" in line]


@pytest.mark.parametrize("convolution", [convolutions.downsample_conv, convolutions.upsample_conv])
def test_convolutions_have_the_targets_form(convolution):
    assert not any(dilations(convolution))
    with target.compile_for("gpu"):
        assert any(dilations(convolution))
    assert not any(dilations(convolution))


def test_the_option_of_remat_is_the_targets():
    disabled = "xla_disable_hlo_passes"
    assert disabled in target.compiler_options(keep_barriers=True)
    assert disabled not in target.compiler_options()
    with target.compile_for("gpu"):
        assert target.platform() == "gpu"
        assert not target.compiler_options(keep_barriers=True)
        with target.compile_for("cpu"):
            assert disabled in target.compiler_options(keep_barriers=True)
    assert target.platform() == jax.default_backend()


def test_no_convolution_of_the_cpu_goes_to_the_library_that_uses_one_core():
    x, kernel = jnp.ones((2, 64, 64, 32)), jnp.ones((3, 3, 32, 32))
    texts = [
        jax.jit(convolutions.conv, compiler_options=options).lower(x, kernel).compile().as_text()
        for options in ({}, target.compiler_options())
    ]
    assert ["__ynn_fusion" in text for text in texts] == [True, False]


def test_the_target_is_what_it_was_after_an_error():
    with pytest.raises(KeyError), target.compile_for("gpu"):
        raise KeyError
    assert target.platform() == jax.default_backend()


@pytest.mark.parametrize("is_fatal", [False, True])
def test_a_plugin_that_cannot_be_used_is_one_line(monkeypatch, capfd, caplog, is_fatal):
    def find():
        try:
            raise AssertionError("no driver")
        except AssertionError:
            logging.getLogger("jax._src.xla_bridge").exception("Jax plugin configuration error: cuda")
        if is_fatal:
            raise RuntimeError("Unknown backend cuda (set JAX_PLATFORMS='' to choose)")

    monkeypatch.setattr(jax, "local_devices", find)
    monkeypatch.setattr(progress.logger, "propagate", True)
    if is_fatal:
        with pytest.raises(UserError, match=r"JAX finds no device to compute on: Unknown backend cuda$"):
            target.require_devices()
        assert not caplog.records
    else:
        target.require_devices()
        (record,) = caplog.records
        assert record.getMessage().endswith("Jax plugin configuration error: cuda: no driver")
    assert "Traceback" not in capfd.readouterr().err
