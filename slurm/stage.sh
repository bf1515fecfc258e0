# shellcheck shell=bash
# shellcheck disable=SC2154 # set by the scripts that source this
# What every stage of a chain does as a Slurm job: it says how it stands, stops in time, goes back
# into the queue until it is done, and gives up when starts bring nothing. The job scripts source
# this after their settings:
#
#   root            folder that holds jobs/ and slurm/
#   folder          campaign folder: logs/ and state/ are in it
#   stage, number   what is done, and its place in the chain
#   attempts        starts without progress before the stage has failed
#   requeue         yes or no: whether the job may go back into the queue
#   signal_seconds  before its end the job is asked to stop
#   launcher        what starts ranks: srun --mpi=pmix, mpirun or none
#   threads         cores of a rank
#   watched         files that tell the progress (array; may be empty)
#   beforehand      a command that is run first, each time (array; may be left out)
#   unprepared      what of modules and setup did not work (may be left out)
#
# A state is a line of JSON in state/NUMBER-STAGE.json: running, requeued, leaving (a successor is to
# be submitted), done, failed, interrupted. Nothing depends on a signal arriving: what is committed
# stays (docs/recovery.md).

set -uo pipefail

stage_name=$number-$stage${SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}
state_file=$folder/state/$stage_name.json
attempts_file=$folder/state/$stage_name.attempts
rank_logs=$folder/logs/$stage_name.ranks
this_job=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
began=$(date +%s)
starts=0 idle=0 before='' now='' code=0 process='' timer='' ends='' asked='' leaving=''

# Writes a small file so that it is there whole, or as it was before.
write_whole() {
    printf '%s\n' "$2" >"$1.tmp.$$" && mv -f "$1.tmp.$$" "$1"
}

# note STATE REASON: reasons are phrases of this file, without quotes.
note() {
    local line
    printf -v line '{"stage": "%s", "state": "%s", "reason": "%s", "code": %d, "job": "%s", ' \
        "$stage" "$1" "${2:-}" "$code" "$this_job"
    printf -v line '%s"host": "%s", "starts": %d, "idle": %d, "began": %d, "time": %d}' \
        "$line" "${SLURM_JOB_NODELIST:-$HOSTNAME}" "$starts" "$idle" "$began" "$(date +%s)"
    write_whole "$state_file" "$line"
}

tell() { printf '== %s  %s: %s\n' "$(date '+%F %T')" "$stage_name" "$*"; }

# When the job's time is over, in seconds since 1970; nothing where there is no end.
find_end() {
    [ -n "${SLURM_JOB_ID:-}" ] || return
    local words
    words=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null)
    [[ $words =~ EndTime=([0-9T:-]+) ]] && date -d "${BASH_REMATCH[1]}" +%s
}

# What the watched files hold; the same text twice means that nothing was gained in between.
find_progress() {
    if [ "${#watched[@]}" -eq 0 ]; then
        echo none
    else
        python3 -m hpctem.slurm.progress "${watched[@]}" || echo unknown
    fi
}

# Ends the job in a way that has it started again, here or in a successor.
start_again() {
    leaving=yes
    note requeued "$1"
    if [ -z "$this_job" ]; then
        tell "$1; run the same command to go on"
        exit 1
    fi
    if [ "$requeue" = yes ]; then
        tell "$1; back into the queue"
        # A task by the number of its array and its own: another number may mean the whole array.
        # Slurm ends this script while it waits.
        if scontrol requeue "$this_job"; then
            sleep 600 &
            wait "$!"
            exit 1
        fi
    fi
    note leaving "$1"
    tell "$1; a successor is submitted"
    hpctem resubmit "$folder" && exit 1
    note failed "it could not go back into the queue"
    exit 1
}

# Of an array whose tasks may not requeue, the last one that ends submits what all of them left.
end_well() {
    note 'done' "${1:-}"
    tell "done${1:+, $1}"
    if [ "$requeue" = no ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then hpctem resubmit "$folder"; fi
    exit 0
}

fail_stage() {
    note failed "$1"
    tell "failed: $1"
    if [ -d "$rank_logs" ]; then tell "each rank's own words are in $rank_logs"; fi
    exit "$((code ? code : 1))"
}

on_usr1() {
    [ -z "$asked" ] || return
    asked=yes
    tell "the time is nearly over; the ranks finish what they are at"
    [ -z "$process" ] || kill -USR1 "$process" 2>/dev/null
    # Segments that take longer are given up in time to get back into the queue.
    local shell=$$
    { sleep "$((signal_seconds > 90 ? signal_seconds - 60 : signal_seconds / 3))"
      kill -USR2 "$shell"; } >/dev/null 2>&1 &
    timer=$!
}

on_usr2() {
    [ -n "$leaving" ] || start_again "its time was nearly over and a segment took longer"
}

on_term() {
    [ -z "$leaving" ] || return
    leaving=yes
    code=143
    # At the end of its time Slurm ends a job in the same way as scancel does.
    if [ -n "$ends" ] && [ "$(date +%s)" -ge "$((ends - 2))" ]; then
        start_again "its time was over"
    fi
    # Who is preempted again and again before anything is committed has not failed.
    write_whole "$attempts_file" "$starts $((idle - 1)) $now"
    note interrupted "ended by scancel, a preemption or a failing node"
    tell "ended from outside"
    exit "$code"
}

# Whether this very job has ended well before: its state of then says so.
was_done() {
    [ -n "$this_job" ] && [ -f "$state_file" ] || return 1
    local line
    line=$(<"$state_file")
    [[ $line == *'"state": "done"'* && $line == *"\"job\": \"$this_job\""* ]]
}

# Runs a command and waits until it has ended, whatever signals come meanwhile; its exit code is in
# `code`.
attend() {
    "$@" &
    process=$!
    # A trapped signal ends `wait` while the command still runs.
    while wait "$process"; code=$?; kill -0 "$process" 2>/dev/null; do :; done
}

# run_stage COMMAND...: the command in jobs/, whose ranks are started as the settings say.
run_stage() {
    # First of all: without them a signal ends this script.
    trap on_usr1 USR1
    trap on_usr2 USR2
    trap on_term TERM
    mkdir -p "$folder/state"
    # Slurm may start a whole array again, also those of its tasks that have ended well.
    if was_done; then
        tell "job $this_job has done it before"
        exit 0
    fi
    if [ -f "$attempts_file" ]; then read -r starts idle before <"$attempts_file"; fi
    starts=$((starts + 1))
    now=$(find_progress)
    if [ "$now" = "$before" ]; then idle=$((idle + 1)); else idle=1; fi
    tell "start $starts, job ${this_job:-none} on ${SLURM_JOB_NODELIST:-$HOSTNAME}"
    if [ "$idle" -gt "$attempts" ]; then
        idle=$((idle - 1))
        fail_stage "$attempts starts brought nothing"
    fi
    write_whole "$attempts_file" "$starts $idle $now"
    ends=$(find_end)
    note running
    export HPCTEM_LAUNCHER=$launcher
    if [ "$launcher" != none ]; then export HPCTEM_RANK_LOGS=$rank_logs; fi
    export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads
    export NUMBA_NUM_THREADS=$threads TF_NUM_INTRAOP_THREADS=$threads SRUN_CPUS_PER_TASK=$threads
    if [ "${launcher%% *}" = mpirun ] && [ "$threads" -gt 1 ]; then
        # Open MPI 4 and 5 would give all threads of a rank the same core.
        export OMPI_MCA_hwloc_base_binding_policy=none PRTE_MCA_hwloc_default_binding_policy=none
    fi
    if [ -n "${unprepared:-}" ]; then code=2; fail_stage "$unprepared"; fi
    if [ -n "${beforehand[*]-}" ]; then
        attend "${beforehand[@]}"
        [ -n "$asked" ] || [ "$code" -eq 0 ] || fail_stage 'what it begins with ended with an error'
    fi
    [ -z "$asked" ] || start_again "its time was over before it began"
    attend "$@"
    trap '' USR2
    [ -z "$timer" ] || kill "$timer" 2>/dev/null
    [ -z "$leaving" ] || exit 1
    case $code in
        0)
            end_well
            ;;
        3)
            end_well 'complete, with quarantined samples'
            ;;
        2) fail_stage 'wrong command or file' ;;
    esac
    if [ -z "$asked" ] && [ "$code" -eq 1 ] && [ "${#watched[@]}" -eq 0 ]; then
        fail_stage 'it ended with an error'
    fi
    if [ "$(find_progress)" = "$now" ] && [ "$idle" -ge "$attempts" ]; then
        fail_stage "$attempts starts brought nothing; the last one ended with code $code"
    fi
    if [ -n "$asked" ]; then
        start_again "stopped in time"
    else
        start_again "ended with code $code before it was done"
    fi
}
