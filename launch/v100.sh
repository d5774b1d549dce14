#!/usr/bin/env bash
# Trains R1 and R2, each on a V100:  bsub < launch/v100.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_v100[1-2]
#BSUB -q gpuv100
#BSUB -W 24:00
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_v100_%J_%I.out
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

prepare_training "${IMGINAV_V100_EXPERIMENTS:-R1 R2}" IMGINAV_V100_EXPERIMENTS
exec "$python" -m imginav_jax.main "--config=$IMGINAV_CONFIG:$experiment" "${options[@]}"
