#!/usr/bin/env bash
# Checks the queue's card, then times R1, R2 and R3 on it:  bsub -q gpuv100 < launch/benchmark.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_benchmark
#BSUB -q gpul40s
#BSUB -W 4:00
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_benchmark_%J.out

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

require_venv
require_names
tune_for_card
require_card
collect_options
cd "$project"
"$python" -m imginav_jax.cards --check
exec "$python" -m imginav_jax.benchmark --phase \
  "--config=$project/configs/phase1_2.py:R1${IMGINAV_PRESET:+,$IMGINAV_PRESET}" "${options[@]}"
