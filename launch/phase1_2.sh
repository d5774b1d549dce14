#!/usr/bin/env bash
# Submits R1, R2 and R3, and the report that waits for their ends:  bash launch/phase1_2.sh [--dry-run]
# With IMGINAV_CONTROL=1 a measurement of control (launch/control.sh) comes between them.
# Settings: launch/env.sh.  The jobs' output: logs/ in IMGINAV_WORK, made here: LSF loses it where a folder is missing.
# All is checked before the first job is submitted (imginav_jax/preflight).

set -euo pipefail
# As in the other scripts: the project is the current folder, or one above it.
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

# Sets the array `command` to the bsub command of one script.
compose() { # V100, L40S, CONTROL or REPORT, job name, more options
  local queue=IMGINAV_$1_QUEUE wall_time=IMGINAV_$1_WALL_TIME more=IMGINAV_$1_OPTIONS name=$2
  shift 2
  split_words "${!more:-}" "$more"
  command=(bsub -J "$name" -o "$logs/${name}_%J.out" "$@")
  [ -z "${!queue:-}" ] || command+=(-q "${!queue}")
  [ -z "${!wall_time:-}" ] || command+=(-W "${!wall_time}")
  [ ${#words[@]} -eq 0 ] || command+=("${words[@]}")
}

quote() { # words, printed as they would be typed
  local word between=''
  for word; do
    case $word in
      *[!A-Za-z0-9_./:%=,@+-]*) printf "%s'%s'" "$between" "${word//\'/\'\\\'\'}" ;;
      *) printf '%s%s' "$between" "$word" ;;
    esac
    between=' '
  done
}

# Fails, and names what has been submitted.
fail_between() { # message
  fail "$1${submitted:+; submitted before it: $submitted, which this ends: bkill $submitted}"
}

# Submits `command` and sets `job` to the job's number; in a dry run only shows it, with a name in the number's place.
submit() { # script, name
  local script=$project/launch/$1 answer number='Job <([0-9]+)>'
  if [ -n "$dry_run" ]; then
    echo "$(quote "${command[@]}") < $(quote "$script")"
    job=$2
    return
  fi
  answer=$("${command[@]}" 2>&1 <"$script") || fail_between "bsub refused $script (${answer//$'\n'/ })"
  grep -v '^Job <' <<<"$answer" >&2 || : # what a site's own checks have to say
  [[ $answer =~ $number ]] || fail_between "bsub gave no job number for $script but: ${answer//$'\n'/ }"
  job=${BASH_REMATCH[1]} submitted+=${submitted:+ }${BASH_REMATCH[1]}
  echo "$job: ${command[2]}, output in $logs/${command[2]}_$job.out"
  # So that a second submission finds this job; it may have started, and counts its starts here itself.
  (set -C && echo 0 >"$records/$job.0") 2>/dev/null || [ -e "$records/$job.0" ] ||
    fail_between "$records cannot be written"
}

# Submits a job for each experiment, and adds it to the condition of the report.
submit_runs() { # V100 or L40S, script, experiments
  local setting=$1 script=$2 name
  for name in "${@:3}"; do
    compose "$setting" "phase1_2_$name"
    submit "$script" "${name}_JOB"
    condition+="${condition:+ && }ended($job)"
  done
}

case $#:${1:-} in
  0:) dry_run='' ;;
  1:--dry-run) dry_run=yes ;;
  *) fail "unknown argument $1; the only option is --dry-run" ;;
esac
require_resolution_test
require_venv
require_data
logs=$IMGINAV_WORK/logs records=$IMGINAV_WORK/experiments/requeues submitted='' condition='' refused=''
list_experiments
collect_options
"$python" -m imginav_jax.preflight "${expected[@]}" --config "$project/configs/phase1_2.py" --logs "$logs" \
  --options "${options[@]}" || refused=yes # it has said why
[ -z "$refused" ] || [ -n "$dry_run" ] || exit 1
if [ -z "$dry_run" ]; then
  command -v bsub >/dev/null || fail "bsub is not installed here: log in where jobs are submitted"
  mkdir -p "$logs" "$records" || fail "$IMGINAV_WORK cannot be written: correct IMGINAV_WORK"
fi
cd "$project" # where the jobs look for it

submit_runs V100 v100.sh "${v100[@]}"
submit_runs L40S l40s.sh "${l40s[@]}"
if [ "${IMGINAV_CONTROL:-0}" = 1 ]; then
  compose CONTROL phase1_2_control -w "$condition"
  submit control.sh CONTROL_JOB
  condition+=" && ended($job)"
fi
compose REPORT phase1_2_report -w "$condition"
submit report.sh REPORT_JOB
[ -z "$refused" ] # a dry run has shown what was refused
