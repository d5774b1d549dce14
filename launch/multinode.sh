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

# Starts this script on every node but the first, which the job itself runs on, and names them to each other.
start_the_others() {
  local index fields
  read -ra fields <<<"${LSB_MCPU_HOSTS:-}" # host, slots, host, slots, ...
  [ ${#fields[@]} -ge 2 ] || fail "LSB_MCPU_HOSTS is '${LSB_MCPU_HOSTS:-}': submit this script with bsub"
  export IMGINAV_COORDINATOR=${fields[0]}:$((10000 + LSB_JOBID % 20000)) # below the ports that a system gives out
  export IMGINAV_PROCESSES=$((${#fields[@]} / 2)) IMGINAV_PROCESS=0
  for ((index = 1; index < IMGINAV_PROCESSES; index++)); do
    # One process gets the signal and tells the others: what only waits for them must not die of it.
    (
      trap '' USR2 TERM INT
      cd "$project"
      exec blaunch -no-shell "${fields[2 * index]}" env "LS_SUBCWD=$project" "IMGINAV_PRECISION=$IMGINAV_PRECISION" \
        "IMGINAV_COORDINATOR=$IMGINAV_COORDINATOR" "IMGINAV_PROCESSES=$IMGINAV_PROCESSES" "IMGINAV_PROCESS=$index" \
        bash "$project/launch/multinode.sh"
    ) &
  done
}

prepare_training "${IMGINAV_MULTINODE_EXPERIMENT:-R3}" IMGINAV_MULTINODE_EXPERIMENT
[ -n "${IMGINAV_PROCESS:-}" ] || start_the_others
exec "$python" -m imginav_jax.main "--config=$project/configs/phase1_2.py:$experiment" "${options[@]}"
