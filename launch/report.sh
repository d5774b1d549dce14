#!/usr/bin/env bash
# Compares the finished runs and chooses:  bsub < launch/report.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_report
#BSUB -q gpul40s
#BSUB -W 4:00
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_report_%J.out

set -euo pipefail
# LSF runs a copy of this script, so its own path says nothing: the project is the submission folder, or one above it.
for project in "$PWD" "${LS_SUBCWD:-/}"; do
  until [ -f "$project/launch/env.sh" ] || [ "$project" = / ]; do project=$(dirname "$project"); done
  [ ! -f "$project/launch/env.sh" ] || break
done
[ -f "$project/launch/env.sh" ] || {
  echo "error: no launch/env.sh in $PWD or above: submit in the project" >&2
  exit 1
}
# shellcheck source=launch/env.sh
. "$project/launch/env.sh"

require_resolution_test
require_venv
require_names
tune_for_card
list_experiments
split_words "${IMGINAV_REPORT_ARGUMENTS:-}" IMGINAV_REPORT_ARGUMENTS
cd "$project"
# What the user adds stands last, so that it wins, and behind the folder, so that it may name more folders.
exec "$python" -m imginav_jax.report --expected "${expected[@]}" --work "$IMGINAV_WORK" \
  "$IMGINAV_OUTPUTS" ${words[@]+"${words[@]}"}
