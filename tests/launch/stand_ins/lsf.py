"""A stand-in for LSF: `lsf.py bsub|bjobs|blaunch|job ...`, its state in the folder STAND_IN_STATE.

It does what LSF documents, no more kindly: `bsub < script` runs a copy of the script under another name in another
folder, #BSUB lines are taken as they are (no variable is expanded) and only before the first command, the command line
wins over them, a missing folder of -o loses the output in silence, and the job leads a process group that gets the
signals.  The file of -o gets a job's output when it has ended, and nothing of a start that was requeued; what each
start said is kept in the state folder, in `output.INDEX.START`.  A job whose condition cannot be met stays PEND.  What
blaunch has started ends with it.  A job's own supervisor, `lsf.py job`, lives until the job has ended.

Knobs, in the environment of bsub and of the supervisor, and so in that of the test alone:
  STAND_IN_REFUSE  number of the submission that bsub refuses: 2
  STAND_IN_MINUTE  seconds that a minute of -W and -wt lasts, for the first, second, ... start of a job: "0.1 60"
  STAND_IN_CLOCK   text in the job's output from which on the run limit counts; default: from the start
  STAND_IN_ENV     "none": the job gets nothing of the submitter's environment
"""

import argparse
import ctypes
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

STATE = Path(os.environ["STAND_IN_STATE"])
MAX_STARTS = 20  # a job that is requeued for ever fails a test instead of hanging it
OVERTIME = 10  # minutes from the signal at the run limit to the end
ENDED = {"DONE", "EXIT"}
CONDITIONS = {"done": {"DONE"}, "exit": {"EXIT"}, "ended": ENDED}
HOSTS = ("localhost", "127.0.0.1", "127.0.0.2", "127.0.0.3")


def parser():
    options = argparse.ArgumentParser(prog="bsub", allow_abbrev=False)
    for letter in ("J", "q", "W", "n", "gpu", "o", "e", "w", "wa", "wt", "Q", "u"):
        options.add_argument(f"-{letter}")
    for letter in ("N", "B"):  # mail, which no stand-in sends
        options.add_argument(f"-{letter}", action="store_const", const=True)
    options.add_argument("-R", action="append")
    return options


def bsub(arguments):
    script = sys.stdin.read()
    embedded = []
    for line in script.splitlines():
        if line.startswith("#BSUB"):
            embedded += shlex.split(line.removeprefix("#BSUB"))
        elif line.strip() and not line.startswith("#"):
            break
    typed = {name: value for name, value in vars(parser().parse_args(arguments)).items() if value is not None}
    options = vars(parser().parse_args(embedded)) | typed
    (STATE / "jobs").mkdir(parents=True, exist_ok=True)
    number = 101 + len(list((STATE / "jobs").iterdir()))
    if os.environ.get("STAND_IN_REFUSE") == str(number - 100):
        refuse(f"{options['q']}: No such queue. Job not submitted.")
    if any(not (STATE / "jobs" / each).is_dir() for each in re.findall(r"\((\d+)\)", options["w"] or "")):
        refuse("Dependency condition invalid or job not found. Job not submitted.")
    folder = STATE / "jobs" / str(number)
    (folder / "status").mkdir(parents=True)
    spooled = STATE / "spool" / f"1700000000.{number}.shell"
    spooled.parent.mkdir(exist_ok=True)
    spooled.write_text(script)
    job = {"number": number, "options": options, "cwd": str(Path.cwd()), "script": str(spooled), "typed": typed}
    (folder / "job.json").write_text(json.dumps(job))
    for index in elements(options):
        set_state(folder / "status" / str(index), "PEND")
    log = (folder / "supervisor.log").open("w")
    command = [sys.executable, __file__, "job", str(number)]
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (folder / "pid").write_text(str(started.pid))
    sys.stdout.write(f"Job <{number}> is submitted to queue <{options['q'] or 'normal'}>.\n")


def refuse(message):
    sys.stderr.write(message + "\n")
    sys.exit(255)


def set_state(status, state):
    """Whole at any moment: others read it meanwhile."""
    new = STATE / f"{status.parent.parent.name}.{status.name}.new"
    new.write_text(state)
    new.replace(status)


def elements(options):
    """The indices of an array, name[1-2] or name[3] or name[1-2,5]; 0 where it is none."""
    found = re.search(r"\[([\d,-]+)\]", options["J"] or "")
    if not found:
        return [0]
    ends = [each.partition("-") for each in found[1].split(",")]
    return [index for first, _, last in ends for index in range(int(first), int(last or first) + 1)]


def job_name(options, index):
    name = (options["J"] or "").partition("[")[0]
    return f"{name}[{index}]" if index else name


def bjobs(arguments):
    """-noheader -o "FIELD ... delimiter='X'" NUMBER ..., a line for each element; without numbers the unfinished, by -J
    those of a name, in which * stands for anything."""
    options = argparse.ArgumentParser(prog="bjobs", allow_abbrev=False)
    options.add_argument("-noheader", action="store_true", required=True)
    options.add_argument("-o", required=True)
    options.add_argument("-J", default="*")
    options.add_argument("numbers", nargs="*")
    given = options.parse_args(arguments)
    *fields, delimiter = shlex.split(given.o)
    pattern = ".*".join(map(re.escape, given.J.split("*")))
    missing = found = False
    for number in given.numbers or sorted(path.name for path in (STATE / "jobs").glob("*")):
        folder = STATE / "jobs" / number
        if not folder.is_dir():
            sys.stderr.write(f"Job <{number}> is not found\n")
            missing = True
            continue
        description = json.loads((folder / "job.json").read_text())
        submitted, cwd = description["options"], description["cwd"]
        for status in sorted((folder / "status").iterdir()):
            name, state = job_name(submitted, int(status.name)), status.read_text()
            if (given.numbers or state not in ENDED) and re.fullmatch(pattern, name):
                found = True
                values = {"jobid": number, "stat": state, "job_name": name, "sub_cwd": cwd}
                values["output_file"] = submitted["o"] or "-"
                sys.stdout.write(delimiter.removeprefix("delimiter=").join(values[each] for each in fields) + "\n")
    if given.J != "*" and not found:
        sys.stderr.write(f"Job <{given.J}> is not found\n")
    sys.exit(255 if missing or not found else 0)


def blaunch(arguments):
    """On "another host": a session of its own; without -no-shell a shell reads the words once more, as by rsh."""
    for name in ("LSB_JOBID", "LSB_MCPU_HOSTS"):
        if name not in os.environ:
            sys.exit(f"blaunch: {name} is not set")
    no_shell = arguments[0] == "-no-shell"
    host, *command = arguments[no_shell:]
    if host not in os.environ["LSB_MCPU_HOSTS"].split()[::2]:
        sys.exit(f"blaunch: {host} is not among the job's hosts")
    command = command if no_shell else ["sh", "-c", " ".join(command)]
    end_with_this = functools.partial(ctypes.CDLL(None).prctl, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    code = subprocess.run(command, check=False, start_new_session=True, preexec_fn=end_with_this).returncode
    sys.exit(code if code >= 0 else 128 - code)


def job(arguments):
    (number,) = arguments
    folder = STATE / "jobs" / number
    description = json.loads((folder / "job.json").read_text())
    while not is_satisfied(description["options"]["w"]):
        time.sleep(0.1)
    threads = [
        threading.Thread(target=run_element, args=(folder, description, i)) for i in elements(description["options"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def is_satisfied(condition):
    """Of done(101) && ended(102) || exit(103); of an array, all elements must be there."""

    def holds(found):
        states = {each.read_text() for each in (STATE / "jobs" / found[2] / "status").iterdir()}
        return str(states <= CONDITIONS[found[1]])

    text = re.sub(r"(done|exit|ended)\((\d+)\)", holds, condition or "True")
    words = text.replace("&&", " and ").replace("||", " or ")
    if re.sub(r"True|False|and|or|[() ]", "", words):
        sys.exit(f"condition {condition}")
    return eval(words)


def run_element(folder, description, index):
    options, number = description["options"], description["number"]
    status = folder / "status" / str(index)
    output = Path((options["o"] or "%J.out").replace("%J", str(number)).replace("%I", str(index)))
    output = Path(description["cwd"]) / output
    requeue = (options["Q"] or "").split()
    for start in range(MAX_STARTS):
        set_state(status, "RUN")
        part = folder / f"output.{index}.{start}"
        code = run_once(description, index, start, part)
        with (folder / f"codes.{index}").open("a") as file:
            file.write(f"{code}\n")
        if str(code) not in requeue:
            break
        set_state(status, "PEND")
    if output.parent.is_dir():
        with output.open("ab") as file:
            file.write(part.read_bytes())
    set_state(status, "DONE" if code == 0 else "EXIT")


def run_once(description, index, start, part):
    options = description["options"]
    with part.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/bash", description["script"]],
            cwd=description["cwd"],
            env=environment(description, index),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        over = threading.Event()
        watch = threading.Thread(target=enforce_limit, args=(options, start, process.pid, part, over))
        watch.start()
        code = process.wait()
        over.set()
        watch.join()
    return code if code >= 0 else 128 - code


def environment(description, index):
    options = description["options"]
    slots = int(options["n"] or 1)
    each = re.search(r"ptile=(\d+)", " ".join(options["R"] or []))
    each = int(each[1]) if each else slots
    hosts = " ".join(f"{host} {each}" for host in HOSTS[: slots // each])
    cards = re.search(r"num=(\d+)", options["gpu"] or "")
    names = ("PATH", "HOME") if os.environ.get("STAND_IN_ENV") == "none" else os.environ
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    return {name: value for name, value in inherited.items() if not name.startswith(("STAND_IN", "LSB_", "LS_"))} | {
        "LSB_JOBID": str(description["number"]),
        "LSB_JOBINDEX": str(index),
        "LSB_JOBNAME": job_name(options, index),
        "LSB_QUEUE": options["q"] or "normal",
        "LSB_MCPU_HOSTS": hosts,
        "LSB_DJOB_NUMPROC": str(slots),
        "LS_SUBCWD": description["cwd"],
        **({"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(int(cards[1]))))} if cards else {}),
    }


def enforce_limit(options, start, group, output, over):
    """The warning, the signal at the limit, and the end, by the clock of this start."""
    if not options["W"]:
        return
    minutes = os.environ.get("STAND_IN_MINUTE", "60").split()
    minute = float(minutes[min(start, len(minutes) - 1)])
    hours, _, rest = options["W"].rpartition(":")
    limit = int(hours or 0) * 60 + int(rest)
    text = os.environ.get("STAND_IN_CLOCK", "").encode()
    while text not in output.read_bytes():
        if over.wait(0.02):
            return
    began = time.monotonic()
    plan = [(limit, signal.SIGUSR2), (limit + OVERTIME, signal.SIGKILL)]
    if options["wa"]:
        plan.insert(0, (limit - int(options["wt"]), signal.Signals[f"SIG{options['wa']}"]))
    for moment, number in plan:
        if over.wait(max(0.0, began + moment * minute - time.monotonic())):
            return
        with output.with_name("signals").open("a") as file:
            file.write(f"{number.name} in minute {moment}\n")
        os.killpg(group, number)


if __name__ == "__main__":
    {"bsub": bsub, "bjobs": bjobs, "blaunch": blaunch, "job": job}[sys.argv[1]](sys.argv[2:])
