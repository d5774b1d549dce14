#!/usr/bin/env bash
# Submits R1, R2 and R3, and the report that waits for them:  bash launch/phase1_2.sh [--dry-run]
# Settings: launch/env.sh.  The jobs' output: logs/ in IMGINAV_WORK, made here: LSF loses it where a folder is missing.

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
compose() { # V100, L40S or REPORT, job name, more options
  local queue=IMGINAV_$1_QUEUE wall_time=IMGINAV_$1_WALL_TIME more=IMGINAV_$1_OPTIONS name=$2
  shift 2
  split_words "${!more:-}" "$more"
  command=(bsub -J "$name" -o "$logs/${name%%[*}_%J_%I.out" "$@")
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

# Submits `command` and sets `job` to the job's number; in a dry run only shows it, with a name in the number's place.
submit() { # script, name
  local script=$project/launch/$1 answer
  if [ -n "$dry_run" ]; then
    echo "$(quote "${command[@]}") < $(quote "$script")"
    job=$2
    return
  fi
  answer=$("${command[@]}" <"$script") || fail "bsub refused $script; submitted before it: ${submitted:-nothing}"
  [[ $answer =~ Job\ \<([0-9]+)\> ]] || fail "bsub gave no job number for $script but: $answer"
  job=${BASH_REMATCH[1]} submitted+="${submitted:+ }$job"
  echo "$job: ${command[2]}, output in $logs"
}

count() { # list of experiments, name of its variable
  split_words "$1" "$2"
  [ ${#words[@]} -gt 0 ] || fail "$2 is empty"
  printf '%s' "${#words[@]}"
}

case $#:${1:-} in
  0:) dry_run='' ;;
  1:--dry-run) dry_run=yes ;;
  *) fail "unknown argument $1; the only option is --dry-run" ;;
esac
require_venv
require_data
logs=$IMGINAV_WORK/logs submitted=''
[ -n "$dry_run" ] || mkdir -p "$logs"
cd "$project" # where the jobs look for it

v100=$(count "${IMGINAV_V100_EXPERIMENTS:-R1 R2}" IMGINAV_V100_EXPERIMENTS)
l40s=$(count "${IMGINAV_L40S_EXPERIMENTS:-R3}" IMGINAV_L40S_EXPERIMENTS)
compose V100 "phase1_2_v100[1-$v100]"
submit v100.sh V100_JOB
v100=$job
compose L40S "phase1_2_l40s[1-$l40s]"
submit l40s.sh L40S_JOB
l40s=$job
compose REPORT phase1_2_report -w "done($v100) && done($l40s)"
submit report.sh REPORT_JOB
