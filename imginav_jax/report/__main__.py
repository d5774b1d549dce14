"""From finished runs to a decision: `python -m imginav_jax.report outputs/phase1_2_spatial_resolution`."""

import argparse
import shutil
from pathlib import Path

from imginav_jax.system.command_line import Parser, one_line_errors
from imginav_jax.system.errors import OptionError, UserError
from imginav_jax.system.files import expand_user, own_config
from imginav_jax.system.progress import log_to_stdout, logger

_NARROWEST = 100  # columns of the table where there is no terminal


def main() -> None:
    parser = Parser(
        "report",
        "Compare the runs of a phase: which latent resolution, or whether the VAE.",
        "outputs/phase1_2_spatial_resolution",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR", help="a phase folder, or workdirs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: report/ in the phase folder")
    parser.add_argument(
        "--config", type=Path, default=own_config("report.py"), metavar="FILE", help="default: configs/report.py"
    )
    parser.add_argument("--write-next-config", type=Path, metavar="FILE", help="start Phase 1.3 from the winner")
    parser.add_argument("--winner", metavar="RUN", help="the run that Phase 1.3 starts from, whatever the decision: "
                        "R1, \"R1 shortcuts\"; with --write-next-config")  # fmt: skip
    parser.add_argument("--expected", nargs="+", default=[], metavar="EXPERIMENT", help="R1 R3,seed=7 and so on, of "
                        "configs/phase1_2.py: name those that are missing")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the runs were started, for their logs")
    arguments = parser.parse_args()
    log_to_stdout()
    next_path = arguments.write_next_config and expand_user(arguments.write_next_config)
    with one_line_errors("what has been measured is kept"):
        if next_path is not None and next_path.is_dir():
            raise OptionError(f"--write-next-config {next_path} is a folder, expected a file")
        if arguments.winner is not None and next_path is None:
            raise OptionError(f"--winner {arguments.winner} wants a --write-next-config FILE")
        try:
            _report(arguments, next_path)
        except OSError as error:
            raise UserError(f"the report cannot be written: {error}") from None


def _report(arguments: argparse.Namespace, next_path: Path | None) -> None:
    # Imported here: a mistake in the flags is answered at once, and the processes that count start light.
    from imginav_jax.devices import compilation_cache
    from imginav_jax.report import build, next_config, settings
    from imginav_jax.report.page import tables
    from imginav_jax.runs import incomplete

    config = settings.load(expand_user(arguments.config))
    paths = [expand_user(path) for path in arguments.paths]
    out, work = (path and expand_user(path) for path in (arguments.out, arguments.work))
    expected = incomplete.resolve(arguments.expected)
    compilation_cache.enable()
    report, out = build.build(paths, out, config, expected, work, arguments.winner)
    width = max(shutil.get_terminal_size().columns, _NARROWEST)
    logger.info("\n%s\n", tables.draw_terminal(report.results, report.confidence, width))
    for arm, decision in report.decisions.items():
        logger.info("%-14s %s", arm.replace("_", " "), decision.sentence)
        logger.info("%-14s %s", "", f"{decision.status}; it would change with {decision.would_change}")
    if report.across:
        logger.info("%-14s %s", "Across arms", report.across)
    logger.info("%-14s %s", "Evidence", report.describe_evidence())
    logger.info("%-14s %s", "Report", out / "index.html")
    if next_path is not None:
        try:
            chosen = next_config.find_choice(report)
        except UserError as error:
            raise UserError(f"--write-next-config {next_path} is not written: {error}") from None
        next_config.write(next_path, chosen, report)
        who = "a person" if report.chosen else "the report"
        logger.info("%-14s %s (%s has chosen %s)", "Next config", next_path, who, chosen.experiment)


if __name__ == "__main__":
    main()
