#!/usr/bin/env bash
# Measures what a ControlNet can do on each run's latents:  bsub < launch/control.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_control
#BSUB -q gpul40s
#BSUB -W 24:00
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_control_%J.out
#BSUB -wa USR2
#BSUB -wt 10
#BSUB -Q "75"

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
count_requeues
tune_for_card
require_card
split_words "${IMGINAV_CONTROL_ARGUMENTS:-}" IMGINAV_CONTROL_ARGUMENTS
cd "$project"
# What the user adds stands last, so that it wins, and behind the folder, so that it may name more folders.
exec "$python" -m imginav_jax.control --precision "$IMGINAV_PRECISION" "$IMGINAV_OUTPUTS" ${words[@]+"${words[@]}"}
