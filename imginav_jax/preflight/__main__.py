"""What is checked before jobs are queued, so that no mistake waits for a card: called by the scripts in launch/.

    python -m imginav_jax.preflight --names
    python -m imginav_jax.preflight R1,quick R2,quick --config configs/phase1_2.py --options --config.batch_size=8

The first form only checks the names of the variables.  The settings are read from the environment, as launch/env.sh
leaves them.  Nothing is made or changed; the first mistake is one line on stderr, and the exit code is 1.
"""

import argparse
import os
from pathlib import Path

from imginav_jax.preflight import checks
from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.files import own_config


def main() -> None:
    parser = Parser(
        "preflight", "Check what is to be queued.", "R1,quick R2,quick --config configs/phase1_2.py --logs logs"
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="R1 or R1,quick")
    parser.add_argument("--names", action="store_true", help="check the names of IMGINAV_ variables alone")
    parser.add_argument(
        "--config", metavar="FILE", default=str(own_config("phase1_2.py")), help="default: configs/phase1_2.py"
    )
    parser.add_argument(
        "--logs", type=Path, default=Path("logs"), metavar="DIR", help="of the jobs' output; default: logs"
    )
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of imginav_jax.main; the last option")
    arguments = parser.parse_args()
    with one_line_errors(also=OSError):
        checks.check_names()
        if not arguments.names:
            checks.check_settings()
            work = Path(os.environ.get("IMGINAV_WORK", "."))
            checks.check_runs(arguments.experiments, arguments.config, arguments.options, work)
            checks.check_writable("the folder of the jobs' output", arguments.logs)
            checks.check_no_job_is_unfinished(work / "experiments" / "requeues")
            checks.check_no_job_waits(Path(arguments.config).parent.parent, work)


if __name__ == "__main__":
    main()
