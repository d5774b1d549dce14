"""Bytes, kernels and floors of programs whose traffic is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from imginav_jax.devices import target
from imginav_jax.models import normalization, plain_convolutions
from imginav_jax.runs import experiment
from imginav_jax.traffic import count, eager, floor, kinds, program, steps
from imginav_jax.traffic.floor import Pass
from imginav_jax.traffic.program import Frame, Kernel

# An image is halved and reduced in one kernel, turned three times in a loop, and convolved.
TEXT = """HloModule jit_f, is_scheduled=true

FileNames
1 "/home/a/train.py"
2 "/home/a/imginav_jax/models/network.py"

FunctionNames
1 "<module>"
2 "Conv.without_bias"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=9 end_column=82}
2 {file_name_id=2 function_name_id=2 line=70 end_line=70 column=9 end_column=82}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused (p: f16[4,8]) -> (f32[4], f16[4,8]) {
  %p = f16[4,8]{1,0} parameter(0)
  %half = f16[4,8]{1,0} convert(%p), metadata={op_name="jit(f)/mul" stack_frame_id=2}
  ROOT %t = (f32[4]{0}, f16[4,8]{1,0}) tuple(%half, %half)
}

%body (s: f16[8,4]) -> f16[8,4] {
  %s = f16[8,4]{1,0} parameter(0)
  ROOT %turned = f16[8,4]{0,1} copy(%s)
}

%condition (s.1: f16[8,4]) -> pred[] {
  %s.1 = f16[8,4]{1,0} parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: f16[4,8], k: f16[2,2]) -> f16[3] {
  %x = f16[4,8]{1,0} parameter(0)
  %k = f16[2,2]{1,0} parameter(1)
  %halved = (f32[4]{0}, /*index=1*/f16[4,8]{1,0}) fusion(%x), kind=kInput, calls=%fused, metadata={stack_frame_id=1}
  %image = f16[4,8]{1,0} get-tuple-element(%halved), index=1
  %flat = f16[8,4]{1,0} bitcast(%image)
  %loop = f16[8,4]{1,0} while(%flat), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %conv = (f16[3]{0}, u8[0]{0}) custom-call(%loop, %k), custom_call_target="__cudnn$convForward"
}
"""


def test_a_program_is_read_as_kernels_with_bytes_and_places():
    fusion, *copies, conv = program.read(TEXT)
    assert (fusion.moved, conv.moved) == (64 + 4 * 4 + 64, 64 + 8 + 6)
    assert [(copy.operation, copy.moved) for copy in copies] == 3 * [("copy", 128)]
    assert fusion.source == Frame("/home/a/imginav_jax/models/network.py", "Conv.without_bias", 70)
    assert Frame("/home/a/train.py", "<module>", 3) in fusion.frames
    assert conv.operation == "__cudnn$convForward"
    assert [kinds.kind_of(each) for each in (conv, copies[0])] == [kinds.FORWARD, kinds.COPIES]


def kernel(operation="fusion", moved=0, op_name="", operations=(), frames=()):
    places = frozenset(Frame(*frame, 1) for frame in frames)
    return Kernel("k", operation, moved, (), op_name, frozenset(operations), places, next(iter(places), None))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"operation": "__cudnn$convBackwardFilter"}, kinds.KERNEL_GRADIENT),
        ({"operation": "__cudnn$convForward", "op_name": "jit(f)/transpose(jvp())/conv"}, kinds.INPUT_GRADIENT),
        ({"operation": "__cudnn$convBackwardInput", "op_name": "jit(f)/jvp(transpose())/conv"}, kinds.FORWARD),
        ({"operation": "__cublas$gemm"}, kinds.PRODUCTS),
        ({"frames": [("/a/models/losses.py", "f"), ("/a/models/normalization.py", "g")]}, kinds.NORMS),
        ({"frames": [("/a/models/losses.py", "f"), ("/b/optax/x.py", "g")]}, kinds.HEADS),
        ({"frames": [("/b/optax/x.py", "g")]}, kinds.OPTIMIZER),
        ({"operations": ["convert", "transpose"]}, kinds.COPIES),
        ({"operations": ["add"]}, kinds.OTHERS),
    ],
)
def test_kernels_are_sorted_by_library_and_place(given, kind):
    assert kinds.kind_of(kernel(**given)) == kind


def test_kernels_are_set_against_passes_of_their_kind():
    norm = {"frames": [("/a/models/normalization.py", "g")]}
    kernels = [kernel(moved=10, **norm), kernel(moved=70, **norm), kernel(moved=5, **norm), kernel(moved=8)]
    found = count.compare(kernels, [Pass(kinds.NORMS, 9), Pass(kinds.NORMS, 60)], flops=1, shown=3)
    assert [excess.moved for excess in found.excesses] == [10, 8, 5]
    assert (found.bytes_moved, found.kernels, found.moved[kinds.NORMS]) == (93, 4, 85)
    assert found.ratio == pytest.approx(93 / 69)


def block(params, x):
    kernel, bias, scale = params
    y = plain_convolutions.downsample(x, kernel.astype(jnp.float16))
    return normalization.bias_norm_act(y, bias, scale, bias, 2, jax.nn.silu)


@pytest.mark.parametrize("trains", [False, True])
def test_the_floor_of_a_convolution_and_a_norm(trains):
    x, params = jnp.zeros((2, 8, 8, 4), jnp.float16), (jnp.zeros((4, 4, 4, 6)), jnp.zeros(6), jnp.ones(6))
    function = jax.grad(lambda *inputs: block(*inputs).astype(jnp.float32).sum(), (0, 1)) if trains else block
    with target.compile_for("gpu"):
        found = floor.passes(jax.make_jaxpr(function)(params, x).jaxpr)
    image, result, weights = 2 * x.size, 2 * 2 * 4 * 4 * 6, 2 * 4 * 4 * 4 * 6
    convolutions = [kinds.FORWARD, kinds.KERNEL_GRADIENT, kinds.INPUT_GRADIENT] if trains else [kinds.FORWARD]
    assert {each.kind: each.moved for each in found if each.kind in convolutions} == dict.fromkeys(
        convolutions, image + result + weights
    )
    passes_over_the_image = 8 if trains else 3
    assert sum(each.moved for each in found if each.kind == kinds.NORMS) == passes_over_the_image * result


def test_what_the_optimizer_must_move():
    params = {"kernel": np.zeros((2, 3)), "bias": np.zeros(5)}
    assert floor.updates(params, 2) == [Pass(kinds.OPTIMIZER, 5 * 28), Pass(kinds.OPTIMIZER, 6 * 28)]
    assert floor.conversions(params, 2) == [Pass(kinds.COPIES, 6 * 6)]
    assert floor.conversions(params, 4) == []


def test_every_step_has_shapes_that_fit_and_a_floor(tmp_path):
    config = helpers.tiny_config(tmp_path)
    for name, make in steps.STEPS.items():
        step = make(experiment.from_config(config))
        with target.compile_for("gpu"):
            traced = jax.make_jaxpr(functools.partial(step.function))(*step.arguments)
        assert {each.kind for each in floor.passes(traced.jaxpr)} >= {kinds.FORWARD, kinds.NORMS}, name
        assert (kinds.OPTIMIZER in {each.kind for each in step.passes}) == step.trains, name


def test_pytorch_moves_more_in_every_operator(tmp_path):
    config = helpers.tiny_config(tmp_path)
    config.precision = "bfloat16"
    given = experiment.from_config(config)
    step = steps.STEPS["encode"](given)
    with target.compile_for("gpu"):
        least = sum(each.moved for each in floor.passes(jax.make_jaxpr(step.function)(*step.arguments).jaxpr))
    moved = eager.count(given, "encode")
    assert 1.5 * least < moved < 6 * least
    assert eager.count(given, "train_step") > 2 * moved
    config.batch_size *= 2
    assert moved < eager.count(experiment.from_config(config), "encode") < 2 * moved
