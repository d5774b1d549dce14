#!/usr/bin/env bash
# Trains R3 on an L40S:  bsub < launch/l40s.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_l40s
#BSUB -q gpul40s
#BSUB -W 24:00
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_l40s_%J.out
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

prepare_training "${IMGINAV_L40S_EXPERIMENTS:-R3}" IMGINAV_L40S_EXPERIMENTS
exec "$python" -m imginav_jax.main "--config=$IMGINAV_CONFIG:$experiment" "${options[@]}"
