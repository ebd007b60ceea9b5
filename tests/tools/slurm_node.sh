#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, from Debian's packages (apt-get install slurm-wlm munge); needs root.
#
#   tests/tools/slurm_node.sh start DIR     configuration, keys, state and logs all lie in DIR; prints the environment to use
#   tests/tools/slurm_node.sh stop DIR      cancels every job and ends the daemons that start began
set -euo pipefail

what=${1:?start or stop} dir=$(realpath -m "${2:?a folder}")
export SLURM_CONF=$dir/slurm.conf
export PATH=$PATH:/usr/sbin

start() {
    for program in munged slurmctld slurmd; do
        command -v $program >/dev/null || { echo "no $program: apt-get install slurm-wlm munge" >&2; exit 1; }
    done
    mkdir -p "$dir"/{state,spool,log}
    chmod 700 "$dir"
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
# a requeued job waits for cred_expire seconds before it starts again
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=30
SlurmctldPort=$(free_port 27000)
SlurmdPort=$(free_port 28000)
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=20
MinJobAge=600
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed" 2>"$dir/log/munged.err"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo -h -o %T 2>/dev/null | grep -q idle; then
            echo "SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "the node did not come up: see $dir/log" >&2
    stop
    exit 1
}

free_port() {
    local port
    for port in $(seq "$1" "$(($1 + 200))"); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
}

stop() {
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for name in slurmd slurmctld munged; do
        if [ -s "$dir/$name.pid" ]; then
            pid=$(cat "$dir/$name.pid")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
        fi
    done
}

case $what in
    start | stop) $what ;;
    *) echo "start or stop, not $what" >&2; exit 2 ;;
esac
