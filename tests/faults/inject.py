"""The program with faults: `python tests/faults/inject.py FAULT... -- ARGUMENTS of imginav_jax.main`.

signal:USR2:step:9        the signal comes while step 9 is recorded
signal:TERM:compile       ... while the steps are compiled; evaluation, save, saved, finish, prepare likewise
kill:step:9               SIGKILL there
raise:saved               an exception right after a save was started
fail:write                the background save fails
nan:step:8                the weights become NaN before step 9; nan:evaluation a validation loss
lose:compile              the run's checkpoints are gone
palette                   another palette
clock:-86400              the clock stands a day back
tensorboard               its writer fails
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from absl import app

from imginav_jax import main
from imginav_jax.devices import distributed


def at(moment, act):
    """Calls `act` once when the program comes to `moment`."""
    from imginav_jax.datasets import imginav_layouts
    from imginav_jax.runs import checkpoints
    from imginav_jax.system import files
    from imginav_jax.training import evaluate, run, train

    place, _, number = moment.partition(":")
    targets = {
        "step": (train, "_record"),
        "compile": (run, "compile_steps"),
        "evaluation": (evaluate, "evaluate"),
        "save": (checkpoints, "_checksums"),  # in the background, with the files written and not yet renamed
        "saved": (checkpoints.Checkpoints, "save"),
        "finish": (train, "_finish"),
        "write": (files.os, "fsync"),  # of a file that replaces another: CSV, JSON or picture
        "prepare": (imginav_layouts.ImginavLayouts, "_generate_examples"),
    }
    owner, name = targets[place]
    real, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if place == "saved":
            result = real(*args, **kwargs)
            if len(calls) == int(number or 1):
                act()
            return result
        if len(calls) == int(number or 1):
            act()
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def lose_checkpoints():
    (workdir,) = (each.partition("=")[2] for each in sys.argv if each.startswith("--workdir="))
    shutil.rmtree(Path(workdir) / "checkpoints")


def fail():
    raise OSError("the disk is on fire")


def poison(moment):
    import jax
    import jax.numpy as jnp

    from imginav_jax.training import run

    real = run.compile_steps

    def compile_poisoned(*args):
        steps, calls = real(*args), []

        def train(state, batch):
            calls.append(1)
            if len(calls) == int(moment.partition(":")[2]):
                state = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.float32("nan"), state.params))
            return steps.train(state, batch)

        def evaluate(params, batch):
            found = steps.evaluate(params, batch)
            return found._replace(losses=found.losses._replace(mse_rgb=found.losses.mse_rgb * jnp.float32("nan")))

        return steps._replace(evaluate=evaluate) if moment == "evaluation" else steps._replace(train=train)

    run.compile_steps = compile_poisoned


def inject(fault):
    kind, _, rest = fault.partition(":")
    if kind == "signal":
        name, _, moment = rest.partition(":")
        at(moment, lambda: os.kill(os.getpid(), getattr(signal, f"SIG{name}")))
    elif kind == "kill":
        at(rest, lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif kind in ("raise", "fail"):
        at("save" if kind == "fail" else rest, fail)
    elif kind == "lose":
        at(rest, lose_checkpoints)
    elif kind == "nan":
        poison(rest)
    elif kind == "palette":
        from imginav_jax.datasets import palette

        palette.COLORS = palette.COLORS[[1, 0, *range(2, 10)]]
    elif kind == "clock":
        real = time.time
        time.time = lambda: real() + float(rest)
    elif kind == "tensorboard":
        from imginav_jax.training import run

        run._open_writer = lambda *arguments: fail()


if __name__ == "__main__":
    split = sys.argv.index("--")
    main._STOP.listen()
    distributed.initialize(main._STOP)  # before JAX is used; main's own call finds it done
    distributed.initialize = lambda stop: None
    for fault in sys.argv[1:split]:
        inject(fault)
    sys.argv[1:] = sys.argv[split + 1 :]
    try:
        app.run(main.main, flags_parser=main.parse_flags)
    except main.Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    finally:
        main._STOP.ignore()
