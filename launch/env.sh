# shellcheck shell=bash
# What the scripts of this folder share; they source it after they have found the project's folder, $project.
#
# A site's settings: in launch/site.env, which is read where it exists (lines of NAME=value, in bash), or exported
# before bsub where it hands the environment on, as LSF does unless told otherwise.  What is exported wins.
# Relative paths: those in launch/site.env are relative to the project's folder, wherever one stands; those that are
# exported or typed are relative to the folder in which the script is started or submitted.
# A name that begins with IMGINAV_ and does not stand here is an error.
#
#   IMGINAV_MANIFEST      path of layouts.csv; needed to train, unless IMGINAV_SYNTHETIC=1 asks for synthetic layouts
#   IMGINAV_VENV          Python with requirements.txt and requirements-gpu.txt installed; default: the project's .venv
#   IMGINAV_WORK          root of what runs write, in experiments/phase1/{name}; default: the project's folder
#   IMGINAV_CONFIG        the experiments' config; default: configs/phase1_2.py.  With another one, such as
#                         configs/phase1_3.py, name its experiments too (below)
#   IMGINAV_OUTPUTS       copies for the comparison, and the report; default: outputs/phase1_2_spatial_resolution there;
#                         with another config it is not used, but the folder that this one names
#   IMGINAV_CACHE         prepared data sets and compiled programs; default: ~/.cache/imginav_jax
#   IMGINAV_SYNTHETIC     1: train on synthetic layouts where IMGINAV_MANIFEST names none
#   IMGINAV_PRESET        changes of the experiments as in configs/phase1_2.py: quick, seed=7, or shortcuts
#   IMGINAV_ARGUMENTS     more options of the runs and the benchmark, quoted as in a shell: --config.batch_size=8
#   IMGINAV_PRECISION     float32, bfloat16 or float16 instead of the card's own (imginav_jax/devices/cards.py)
#   IMGINAV_TF32          1: multiply float32 in TF32
#   IMGINAV_WORKERS       processes that decode layouts; default: the slots less one, at most 4
#   IMGINAV_MAX_REQUEUES  times that a job may be started again; default: 10
#   JAX_PLATFORMS         cpu: run without a card, which is an error otherwise
#
#   IMGINAV_V100_EXPERIMENTS, IMGINAV_L40S_EXPERIMENTS    "R1 R2" and "R3": a job each in launch/phase1_2.sh, else one
#                                                         for each element of the job array; a job that is named
#                                                         phase1_2_R2 (bsub -J) trains R2 whatever stands here
#   IMGINAV_MULTINODE_EXPERIMENT                          default: R3
#   IMGINAV_REPORT_ARGUMENTS                              more options: --write-next-config configs/phase1_3.py
#   IMGINAV_CONTROL                                       1: launch/phase1_2.sh measures control before the report
#   IMGINAV_CONTROL_ARGUMENTS                             more options: --seeds 3
#
# For launch/phase1_2.sh, which gives them to bsub; a #BSUB line cannot hold a variable.  X is V100, L40S, CONTROL or
# REPORT:
#
#   IMGINAV_X_QUEUE, IMGINAV_X_WALL_TIME  instead of the script's own -q and -W
#   IMGINAV_X_OPTIONS                     more options, quoted as in a shell; each replaces all of the script's own of
#                                         its letter: -gpu num=2 -R 'select[gpu32gb] span[hosts=1] rusage[mem=8GB]'
#                                         not -J, -I and -K, nor -w for control and report
#
# Not to be set by a person: IMGINAV_CARD, the card that was found (imginav_jax/devices/cards.py), and IMGINAV_COORDINATOR,
# IMGINAV_PROCESSES and IMGINAV_PROCESS, by which the processes of one run find each other (launch/multinode.sh).

: "${project:?is set by the script that sources this file}"
readonly REQUEUES_SPENT=76 # unlike 75 no code that starts the job again

fail() { # message [exit code]
  echo "error: $1" >&2
  exit "${2:-1}"
}

absolute() { # path, folder that a relative one is relative to
  case $1 in
    /*) printf '%s' "$1" ;;
    '~'/*) printf '%s' "$HOME${1#'~'}" ;;
    *) printf '%s' "$2/$1" ;;
  esac
}

# Sets the array `words` to the words of a text, which may be quoted as in a shell.
split_words() { # text, name of its variable
  local text
  text=$(xargs -r -n1 printf '%s\n' <<<"$1") || fail "$2 has a quote that is not closed: $1"
  words=()
  [ -z "$text" ] || mapfile -t words <<<"$text"
}

# Sets `site` to the text of launch/site.env as bash reads it: without carriage returns and byte order mark.
read_site_file() {
  local file=$project/launch/site.env said
  site=''
  [ -e "$file" ] || return 0
  if [ ! -r "$file" ] || [ ! -f "$file" ]; then fail "$file cannot be read"; fi
  [ "$(tr -d '\0' <"$file" | wc -c)" -eq "$(wc -c <"$file")" ] || fail "$file is UTF-16 text, expected UTF-8"
  site=$(LC_ALL=C sed -e $'1s/^\xef\xbb\xbf//' -e $'s/\r*$//' "$file")$'\n:'
  said=$(project=$project bash -euc "$site" site.env 2>&1 >/dev/null </dev/null) || {
    said=${said%%$'\n'*} said=${said#site.env: }
    fail "$file, ${said#-c: }; expected lines of NAME=value, in bash"
  }
}

# Makes a variable's path absolute; one that was exported is relative to the current folder, not to the project.
resolve() { # name of the variable, names of those that were exported
  local folder=$project
  [ -n "${!1:-}" ] || return 0
  case " $2 " in *" $1 "*) folder=$PWD ;; esac
  printf -v "$1" '%s' "$(absolute "${!1}" "$folder")"
}

read_site() {
  local inherited='' exported=${!IMGINAV_*} site name
  [ -z "$exported" ] || inherited=$(declare -p "${!IMGINAV_@}")
  read_site_file
  set -a
  eval "$site"
  set +a
  eval "${inherited//declare -x /declare -gx }"
  for name in IMGINAV_VENV IMGINAV_WORK IMGINAV_CONFIG IMGINAV_OUTPUTS IMGINAV_MANIFEST IMGINAV_CACHE; do
    resolve "$name" "$exported"
  done
  IMGINAV_VENV=${IMGINAV_VENV:-$project/.venv}
  IMGINAV_WORK=${IMGINAV_WORK:-$project}
  IMGINAV_OUTPUTS=${IMGINAV_OUTPUTS:-$IMGINAV_WORK/outputs/phase1_2_spatial_resolution}
  IMGINAV_CONFIG=${IMGINAV_CONFIG:-$project/configs/phase1_2.py}
  phase_options=()
  [ "$IMGINAV_CONFIG" != "$project/configs/phase1_2.py" ] || phase_options=("--config.phase_dir=$IMGINAV_OUTPUTS")
  [ -r "$IMGINAV_CONFIG" ] || fail "config $IMGINAV_CONFIG cannot be read: correct IMGINAV_CONFIG"
  python=$IMGINAV_VENV/bin/python
  export PYTHONPATH="$project" "${!IMGINAV_@}"
  case ${IMGINAV_MAX_REQUEUES:=10} in
    *[!0-9]*) fail "IMGINAV_MAX_REQUEUES is '$IMGINAV_MAX_REQUEUES', expected a number" ;;
  esac
}

require_resolution_test() { # for what is about R1, R2 and R3 alone
  [ "$IMGINAV_CONFIG" = "$project/configs/phase1_2.py" ] ||
    fail "this is about configs/phase1_2.py, and IMGINAV_CONFIG is $IMGINAV_CONFIG: unset it"
}

require_venv() {
  [ -x "$python" ] || fail "no Python environment in $IMGINAV_VENV: make it, or set IMGINAV_VENV"
}

# An IMGINAV_ name that nothing reads is a mistake; the nearest one is named.
require_names() {
  "$python" -m imginav_jax.preflight --names || exit 1 # it has said why
}

require_data() {
  if [ -n "${IMGINAV_MANIFEST:-}" ]; then
    [ -r "$IMGINAV_MANIFEST" ] || fail "manifest $IMGINAV_MANIFEST cannot be read: correct IMGINAV_MANIFEST"
  elif [ "${IMGINAV_SYNTHETIC:-0}" != 1 ]; then
    fail "no manifest: set IMGINAV_MANIFEST, or IMGINAV_SYNTHETIC=1 to train on synthetic layouts"
  fi
}

# Ends the job where it has been started too often: a run that never gets anywhere must not hold a card for ever.  The
# counts are also the record of the jobs of a work folder: launch/phase1_2.sh writes a 0 there for each that it submits.
count_requeues() {
  [ -n "${LSB_JOBID:-}" ] && [ "${IMGINAV_PROCESS:-0}" = 0 ] || return 0 # one process of a run counts for all
  local folder=$IMGINAV_WORK/experiments/requeues
  local file=$folder/$LSB_JOBID.${LSB_JOBINDEX:-0} starts=0
  mkdir -p "$folder" || fail "$folder cannot be made: correct IMGINAV_WORK"
  find "$folder" -type f -mtime +60 -delete # LSF gives the numbers of jobs out again, after a while
  [ ! -f "$file" ] || starts=$(<"$file")
  if [ "$starts" -gt "$IMGINAV_MAX_REQUEUES" ]; then
    fail "job $LSB_JOBID was started again $IMGINAV_MAX_REQUEUES times (IMGINAV_MAX_REQUEUES) and has not finished; \
submit it anew to go on from its checkpoint" "$REQUEUES_SPENT"
  fi
  echo $((starts + 1)) >"$file"
}

# Settings for the card that this job got.
tune_for_card() {
  local settings
  settings=$("$python" -m imginav_jax.cards) || exit 1 # it has said why
  eval "$settings"
}

require_card() { # after tune_for_card
  [ "$IMGINAV_CARD" != none ] || [ "${JAX_PLATFORMS:-}" = cpu ] ||
    fail "this job has no card that works; JAX_PLATFORMS=cpu runs it without"
}

# Sets `experiment` to that of the job's name, as launch/phase1_2.sh gives it; else to the word of a list that belongs to
# this element of a job array; outside an array, to the first.  Both are LSF's own, whatever the environment hands on.
pick_experiment() { # list, name of its variable
  local index=${LSB_JOBINDEX:-0}
  split_words "$1" "$2"
  [ "$index" != 0 ] || index=1
  if [[ ${LSB_JOBNAME:-} =~ ^phase1_2_([A-Z][0-9]+(,[^][]*)?)$ ]]; then
    experiment=${BASH_REMATCH[1]}
  else
    [ "$index" -le "${#words[@]}" ] || fail "$2 is '$1', but this is element $index of the job array"
    experiment=${words[index - 1]}
  fi
  experiment+=${IMGINAV_PRESET:+,$IMGINAV_PRESET}
}

# Sets the arrays `v100` and `l40s` to the experiments of launch/phase1_2.sh, and `expected` to all with their preset.
list_experiments() {
  split_words "${IMGINAV_V100_EXPERIMENTS:-R1 R2}" IMGINAV_V100_EXPERIMENTS
  [ ${#words[@]} -gt 0 ] || fail "IMGINAV_V100_EXPERIMENTS is empty"
  v100=("${words[@]}")
  split_words "${IMGINAV_L40S_EXPERIMENTS:-R3}" IMGINAV_L40S_EXPERIMENTS
  [ ${#words[@]} -gt 0 ] || fail "IMGINAV_L40S_EXPERIMENTS is empty"
  l40s=("${words[@]}")
  # shellcheck disable=SC2034
  expected=("${v100[@]/%/${IMGINAV_PRESET:+,$IMGINAV_PRESET}}" "${l40s[@]/%/${IMGINAV_PRESET:+,$IMGINAV_PRESET}}")
}

# Sets the array `options` to what imginav_jax.main and imginav_jax.benchmark are given, less the experiment; before
# tune_for_card without what it decides.
collect_options() {
  split_words "${IMGINAV_ARGUMENTS:-}" IMGINAV_ARGUMENTS
  options=(${phase_options[@]+"${phase_options[@]}"})
  [ -z "${IMGINAV_PRECISION:-}" ] || options+=("--config.precision=$IMGINAV_PRECISION")
  [ -z "${IMGINAV_WORKERS:-}" ] || options+=("--config.data.num_workers=$IMGINAV_WORKERS")
  [ -z "${IMGINAV_MANIFEST:-}" ] || options+=("--config.data.manifest=$IMGINAV_MANIFEST")
  [ -z "${IMGINAV_CACHE:-}" ] || options+=("--config.data.cache_dir=$IMGINAV_CACHE")
  [ ${#words[@]} -eq 0 ] || options+=("${words[@]}") # last, so that they win
}

# All of it, for a job that trains; leaves `experiment` and `options`, in the folder where the run writes.
prepare_training() { # list of experiments, name of its variable
  require_venv
  require_data
  require_names
  pick_experiment "$1" "$2"
  count_requeues
  tune_for_card
  require_card
  collect_options
  mkdir -p "$IMGINAV_WORK"
  cd "$IMGINAV_WORK" || fail "$IMGINAV_WORK cannot be entered: correct IMGINAV_WORK"
}

read_site
