# shellcheck shell=bash
# Processes of one run on several nodes, which end together; launch/multinode.sh sources it after launch/env.sh.

: "${project:?is set by the script that sources this file}"
readonly GRACE=15 # seconds that the other processes have to end by themselves after one has
readonly SIGNALS=(USR2 TERM INT HUP USR1 XCPU) # those that stop the program (imginav_jax/system/signals.py)

# Drops what XLA and Orbax write when another process has gone, since the launch script names the one that has: a line of
# XLA's, and what belongs to it below, up to the stack traces of an abort; or a save that Orbax could not end in the
# background, with its traceback, and XLA's lines that come between.  The program itself says why a save has failed.
without_traces() {
  local head='^([EF][0-9]+ .*(coordination_service|client\.h)|[EW][0-9]+ .*preemption_sync_manager)'
  local more='^(Additional GRPC |:[A-Z_]+:|\*\*\* |    @ |Fatal Python error: Aborted|(Current t|T)hread 0x|  File |  <no '
  more+='|  \.\.\.|Extension modules: |$)'
  local save='^E[0-9]+ .*async_checkpointer\.py:' raised='^(Traceback |    |[A-Za-z_.]+Error: |The above exception was )'
  trap '' "${SIGNALS[@]}"
  exec sed -uE -e "/$head/{:below" -e '$d;N;s/.*\n//' -e "/$head/b below" -e "/$more/b below" -e '}' \
    -e "/$save/{:under" -e '$d;N;s/.*\n//' -e "/$head/b under" -e "/$more/b under" -e "/$raised/b under" -e '}'
}

# Names the processes to each other: one on every host of the job, the first on this one.
name_processes() {
  local fields index
  command -v blaunch >/dev/null || fail "blaunch is not installed here: no process can be started on another node"
  read -ra fields <<<"${LSB_MCPU_HOSTS:-}" # host, slots, host, slots, ...
  [ ${#fields[@]} -ge 2 ] || fail "LSB_MCPU_HOSTS is '${LSB_MCPU_HOSTS:-}': submit this script with bsub"
  hosts=()
  for ((index = 0; index < ${#fields[@]}; index += 2)); do hosts+=("${fields[index]}"); done
  export IMGINAV_COORDINATOR=${hosts[0]}:$((10000 + LSB_JOBID % 20000)) # below the ports that a system gives out
  export IMGINAV_PROCESSES=${#hosts[@]} IMGINAV_PROCESS=0
}

# Starts the launch script on another node, in the background.
start_on_node() { # number of the process
  # One process gets the signal and tells the others: what only waits for them must not die of it.
  (
    trap '' "${SIGNALS[@]}"
    cd "$project" || exit
    exec blaunch -no-shell "${hosts[$1]}" env "LS_SUBCWD=$project" "IMGINAV_PRECISION=$IMGINAV_PRECISION" \
      "IMGINAV_COORDINATOR=$IMGINAV_COORDINATOR" "IMGINAV_PROCESSES=$IMGINAV_PROCESSES" "IMGINAV_PROCESS=$1" \
      bash "$project/launch/multinode.sh"
  ) &
}

# Sets `code` to what the job ends with and says so, where the process of this number is the first that has failed.
note_end() { # number of the process, its exit code
  case $2:$code in # its code : the job's so far
    0:* | 75:75) ;;
    75:0) code=75 ;;
    *:0 | *:75)
      code=$2
      [ -n "$told" ] || echo "error: process $1 of $IMGINAV_PROCESSES on ${hosts[$1]} has ended with exit code $2" >&3
      ;;
  esac
}

# Tells the first process what the launch script was told, and sets `told` to the code that the program ends with then.
pass_on() { # name of the signal
  if [ -z "$told" ]; then
    told=$((128 + $(kill -l "$1")))
    [ "$1" != USR2 ] || told=75
  fi
  # The signal has come to the whole group; the program ignores a second one.
  kill "-$1" "${pids[0]:-}" || :
  [ "$1" != INT ] || kill -TERM "${pids[0]:-}" || : # INT does nothing to a child of bash before it asks for it
}

# Whether the processes that still run have no reason to: one has failed, or the first has ended.  After a signal the
# first may still be saving.
must_end() {
  case $code in
    0) [ -z "${pids[0]:-}" ] ;;
    75 | "$told") [ -z "${pids[0]:-}" ] || [ -z "$told" ] ;;
  esac
}

# Runs the program here as process 0 and the launch script on the other nodes, and exits when all have ended: with 75 if
# they were asked to stop at the run limit, else with the first failure.  Those that must end have GRACE seconds for it.
run_together() { # the program
  local index name running deadline='' told='' code=0 pids=()
  name_processes
  "$@" 2> >(without_traces) &
  pids[0]=$!
  for name in "${SIGNALS[@]}"; do
    # shellcheck disable=SC2064
    trap "pass_on $name" "$name"
  done
  for ((index = 1; index < ${#hosts[@]}; index++)); do
    start_on_node "$index"
    pids[index]=$!
  done
  exec 3>&2 2>/dev/null # bash itself would tell of each child that a signal has ended
  while [ ${#pids[@]} -gt 0 ]; do
    running=${#pids[@]}
    for index in "${!pids[@]}"; do
      kill -0 "${pids[index]}" || end_of_process "$index"
    done
    if [ "$running" -gt ${#pids[@]} ] && [ -z "$deadline" ] && must_end; then deadline=$((SECONDS + GRACE)); fi
    [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || break
    [ ${#pids[@]} -eq 0 ] || sleep 1 || : # a signal ends it too
  done
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" || :
  sleep 0.2 || : # what the program said last is on its way through a pipe
  exit "$code"
}

end_of_process() { # number of a process that has ended
  local its=0
  wait "${pids[$1]}" || its=$?
  unset "pids[$1]"
  note_end "$1" "$its"
}
