"""What a person's environment may change, and what it may not: the table, and commands started under hostile ones."""

import os
import pwd
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import ROOT, TINY, random_layout, run
from imginav_jax import autoencoder
from imginav_jax.models import network
from imginav_jax.runs import weights
from imginav_jax.system.errors import UserError
from imginav_jax.system.process import environment


def overrule(**variables):
    given = {"HOME": "/home/me", **variables}
    changed = environment.overrule(given)
    own = {"HOME": "/home/me", "MPLCONFIGDIR": "/home/me/.cache/imginav_jax/matplotlib"}
    own |= {name: value for name, (value, _) in environment.SET.items()}
    return {name: value for name, value in given.items() if own.get(name) != value}, changed


def test_every_option_of_jax_is_decided():
    names = {name.upper() for name in jax.config.values}
    changed = set(environment.overrule(dict.fromkeys(names, "")))
    kept = names & set(environment.KEPT)
    assert changed == names - kept
    assert {name for name in environment.KEPT if name.startswith("JAX_")} == kept, "they are options of JAX"


def test_every_name_has_a_reason():
    for decided in (environment.OVERRULED, environment.PYTHON):
        assert all(decided.values())
    assert all(kept.reason for kept in environment.KEPT.values())
    assert all(reason for _, reason in environment.SET.values())


def test_jax_takes_the_precisions_that_are_let_through():
    for precision in environment.KEPT["JAX_DEFAULT_MATMUL_PRECISION"].values.split("|"):
        with jax.default_matmul_precision(precision):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("JAX_ENABLE_X64", "1"), ("JAX_DISABLE_JIT", "1"), ("JAX_NUMPY_DTYPE_PROMOTION", "strict")],
        *[("JAX_NUMPY_RANK_PROMOTION", "raise"), ("JAX_TRANSFER_GUARD", "disallow"), ("JAX_DEBUG_NANS", "1")],
        *[("JAX_TRANSFER_GUARD_HOST_TO_DEVICE", "disallow_explicit"), ("JAX_DEFAULT_PRNG_IMPL", "rbg")],
        *[("JAX_AN_OPTION_OF_NEXT_YEAR", "1"), ("TQDM_NONSENSE", "1"), ("FLAX_PROFILE", "x"), ("TF2_BEHAVIOR", "0")],
        *[("TFDS_DATA_DIR", "/data"), ("KERAS_BACKEND", "torch"), ("NPY_DISABLE_CPU_FEATURES", "SSE2")],
        *[("MATPLOTLIBRC", "/etc/rc"), ("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "cpp")],
        *[("PYTHONIOENCODING", "ascii"), ("MPLBACKEND", "TkAgg"), ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")],
    ],
)
def test_overruled(name, value):
    assert overrule(**{name: value}) == ({}, [name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("JAX_PLATFORMS", "cuda,cpu"), ("XLA_FLAGS", "--xla_anything"), ("JAX_NUM_CPU_DEVICES", "4")],
        *[("JAX_COMPILATION_CACHE_DIR", "gs://bucket"), ("JAX_ENABLE_COMPILATION_CACHE", "False")],
        *[("XLA_CLIENT_MEM_FRACTION", ".88"), ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")],
        *[("JAX_DEFAULT_MATMUL_PRECISION", "highest"), ("JAX_CUDA_VISIBLE_DEVICES", "0,1")],
        *[("OMP_NUM_THREADS", "2"), ("IMGINAV_CACHE_", "/x"), ("CUDA_VISIBLE_DEVICES", "1"), ("LC_ALL", "C")],
        *[("TF_CPP_MIN_LOG_LEVEL", "0"), ("COLUMNS", "80"), ("http_proxy", "http://localhost:1")],
    ],
)
def test_let_through(name, value):
    assert overrule(**{name: value}) == ({name: value}, [])


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        *[("JAX_DEFAULT_MATMUL_PRECISION", "HIGHEST ", "highest"), ("JAX_TRACEBACK_FILTERING", "OFF", "off")],
        *[("JAX_DEFAULT_MATMUL_PRECISION", "tf32_tf32_f32", "TF32_TF32_F32"), ("JAX_LOG_COMPILES", "Y ", "Y")],
        *[("JAX_LOGGING_LEVEL", "debug", "DEBUG"), ("JAX_NUM_CPU_DEVICES", " 4\r", "4")],
        *[("JAX_LOG_COMPILES", "\t", None), ("XLA_FLAGS", "--xla_a\n--xla_b\n", "--xla_a\n--xla_b")],
        *[("JAX_CUDA_VISIBLE_DEVICES", "All", "all"), ("JAX_PLATFORMS", "cpu\r", "cpu")],
    ],
)
def test_spelled_as_its_library_reads_it(name, value, known):
    assert overrule(**{name: value}) == ({name: known} if known else {}, [])


def test_jax_starts_with_what_is_let_through():
    spelled = {"JAX_DEFAULT_MATMUL_PRECISION": "HIGHEST", "JAX_TRACEBACK_FILTERING": "OFF", "JAX_LOG_COMPILES": "Y "}
    given = {**os.environ, **spelled, "JAX_LOGGING_LEVEL": "Error", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "\tno\r"}
    environment.overrule(given)
    program = "import jax; print(jax.config.jax_default_matmul_precision, jax.config.jax_logging_level)"
    result = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("highest ERROR\n", "")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JAX_NUM_CPU_DEVICES", "x", "a whole number"),
        ("JAX_LOGGING_LEVEL", "loud", "one of NOTSET, DEBUG,"),
        ("JAX_ENABLE_COMPILATION_CACHE", "maybe", "true or false"),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1 s", "a number"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "half", "one of default, high,"),
        ("JAX_CUDA_VISIBLE_DEVICES", "-1", "all, or numbers with commas"),
        ("XLA_CLIENT_MEM_FRACTION", "90%", "a number"),
    ],
)
def test_refused(name, value, expected):
    with pytest.raises(UserError, match=rf"{name} is '{value}' in the environment, expected {expected}"):
        overrule(**{name: value})


def test_empty_is_not_set():
    assert overrule(JAX_NUM_CPU_DEVICES="", JAX_PLATFORMS="", COLUMNS="") == ({}, [])


def test_of_two_names_for_the_memory_the_new_one_counts():
    given = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5", "XLA_CLIENT_MEM_FRACTION": ".9"}
    assert overrule(**given) == ({"XLA_CLIENT_MEM_FRACTION": ".9"}, [])


@pytest.mark.parametrize("columns", ["1", "x", "0", "-5"])
def test_a_terminal_without_room_has_none(columns):
    assert overrule(COLUMNS=columns, LINES=columns) == ({}, [])


def test_folders(tmp_path):
    assert overrule(TMPDIR=str(tmp_path / "gone")) == ({}, [])
    assert overrule(TMPDIR=str(tmp_path)) == ({"TMPDIR": str(tmp_path)}, [])
    (tmp_path / "readable").mkdir(mode=0o500)
    if os.getuid():  # root may write everywhere
        assert overrule(TMPDIR=str(tmp_path / "readable")) == ({}, [])
    given = {"HOME": "", "IMGINAV_CACHE": str(tmp_path)}
    environment.overrule(given)
    assert "HOME" not in given
    assert given["MPLCONFIGDIR"] == str(tmp_path / "matplotlib" / str(os.getuid()))


def test_a_user_without_a_name_has_a_home(monkeypatch, tmp_path):
    def find(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", find)  # as in a container
    monkeypatch.delenv("HOME")
    for given, home in (({}, "/tmp"), ({"TMPDIR": str(tmp_path)}, str(tmp_path))):
        environment.overrule(given)
        assert given["HOME"] == home


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("main --config=configs/phase1_2.py:R1,quick --workdir={}/work", "JAX_PLATFORMS", "cuda"),
        ("report {}", "JAX_PLATFORMS", "cuda"),
        ("encode {} --out {}/out", "JAX_PLATFORMS", "nonsense"),
        ("export_torch {} --out {}/a.pt", "JAX_PLATFORM_NAME", "nonsense"),
    ],
)
def test_without_the_devices_that_it_names_a_command_ends_in_one_line(tmp_path, command, name, value):
    result = run(*command.replace("{}", str(tmp_path)).split(), **{"JAX_PLATFORMS": "", name: value})
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {name}={value} is in the environment, and JAX finds no device to compute on: ")
    assert list(tmp_path.iterdir()) == []


def test_python_starts_once_more_where_it_must():
    variables = {"PYTHONINSPECT": "1", "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii"}
    ascii_alone = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("cards", IMGINAV_PRECISION="hälf", **variables, **ascii_alone)
    assert result.returncode == 1, "not the 0 of a prompt"
    assert result.stderr == "error: IMGINAV_PRECISION is 'hälf', expected float32, bfloat16, float16\n"


def test_a_value_without_meaning_is_one_line():
    result = run("encode", "--help", JAX_NUM_CPU_DEVICES="x")
    assert result.returncode == 1
    assert result.stderr == "error: JAX_NUM_CPU_DEVICES is 'x' in the environment, expected a whole number\n"


def test_a_matplotlibrc_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xe4\n")
    result = run("report", tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'matplotlibrc'} cannot be read, as matplotlib does when it starts:")


def test_a_matplotlibrc_changes_no_figure(tmp_path):
    (tmp_path / "matplotlibrc").write_text("backend: TkAgg\ntext.usetex: True\nsavefig.dpi: 7\nlines.linewidth: 9\n")
    program = "import matplotlib as mpl; from imginav_jax.report.page import figures; print(dict(mpl.rcParams))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=True,
    )
    for setting in ("'text.usetex': False", "'savefig.dpi': 110.0", "'lines.linewidth': 1.5", "'font.size': 9.0"):
        assert f"{setting}," in found.stdout


@pytest.mark.parametrize(
    ("command", "redirection"),
    [
        *[("main --help", "2>&1 | head -1"), ("encode --help", "| head -1"), ("preflight --help", "2>&1 | true")],
        *[
            ("cards", "2>&1 | head -1"),
            ("cards", "| true"),
            ("cards", ">/dev/full"),
            ("cards", "2>&-"),
            ("cards", ">&-"),
        ],
    ],
)
def test_nobody_reads_to_the_end(command, redirection):
    shell = f"{sys.executable} -m imginav_jax.{command} {redirection}; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, "as with a reader"
    assert "Error" not in result.stdout + result.stderr
    assert "Exception" not in result.stdout + result.stderr


def test_double_precision_of_other_code_changes_no_weights_and_no_latents(tmp_path, tiny_params):
    weights.save(tmp_path / "saved", TINY, tiny_params, {})
    images = np.stack([random_layout(16, seed) for seed in range(2)])

    def measure():
        found = autoencoder.load(tmp_path / "saved")
        latents = found.encode(images)
        return found.digest, latents, found.decode_heads(latents)

    digest, latents, made = measure()
    with jax.enable_x64(True):
        assert measure()[0] == digest
        jax.tree.map(np.testing.assert_array_equal, measure()[1:], (latents, made))
        found = jax.tree.leaves(jax.eval_shape(lambda: network.init(TINY, jax.random.key(0))))
    assert {leaf.dtype for leaf in found} == {np.dtype(np.float32)}
