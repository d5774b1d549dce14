#!/usr/bin/env bash
# Trains one experiment on the cards of several nodes together:  bsub < launch/multinode.sh
# Settings: launch/env.sh.  The output goes to the submission folder: LSF loses it where a folder of -o does not exist.
#BSUB -J phase1_2_multinode
#BSUB -q gpul40s
#BSUB -W 24:00
#BSUB -n 8
#BSUB -R "span[ptile=4] rusage[mem=8GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -o imginav_multinode_%J.out
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

# shellcheck source=launch/nodes.sh
. "$project/launch/nodes.sh"

prepare_training "${IMGINAV_MULTINODE_EXPERIMENT:-R3}" IMGINAV_MULTINODE_EXPERIMENT
program=("$python" -m imginav_jax.main "--config=$IMGINAV_CONFIG:$experiment" "${options[@]}")
[ -n "${IMGINAV_PROCESS:-}" ] || run_together "${program[@]}"
exec "${program[@]}" 2> >(without_traces) # on the other nodes
