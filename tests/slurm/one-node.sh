#!/usr/bin/env bash
# `dylora reproduce --launcher slurm` against a real Slurm: a cluster of one node on this machine, without systemd or cgroups.
#
#   tests/slurm/one-node.sh [DYLORA]
#
# DYLORA is the program; without it the release build is made. Needs root and a Debian or Ubuntu whose packages can be installed
# (slurmctld, slurmd, slurm-client, munge). Everything else is in a temporary directory, with ports and a key of its own, and is
# removed at the end; a Slurm that this machine may be part of is not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "failed: $*" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || fail "this needs root"
dylora=${1:-}
if [ -z "$dylora" ]; then
  cargo build --release --package dylora-cli
  dylora=${CARGO_TARGET_DIR:-target}/release/dylora
fi
dylora=$(realpath "$dylora")
missing=()
for pair in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge; do
  PATH=$PATH:/usr/sbin command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi
export PATH=$PATH:/usr/sbin

work=$(mktemp -d)
export SLURM_CONF=$work/slurm.conf
daemons=()
stop() {
  scancel --user=root --quiet 2>/dev/null || true
  for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${daemons[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT

cluster() {
  local host cpus
  host=$(hostname -s)
  cpus=$(nproc)
  mkdir -p "$work/state" "$work/spool" "$work/munge"
  chmod 755 "$work"
  dd if=/dev/urandom of="$work/munge/key" bs=128 count=1 status=none
  chmod 700 "$work/munge"
  chmod 600 "$work/munge/key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.sock
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MailProg=/bin/true
KillWait=10
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  munged --foreground --force --socket="$work/munge.sock" --key-file="$work/munge/key" --pid-file="$work/munge/pid" \
    --log-file="$work/munge/log" --seed-file="$work/munge/seed" >"$work/munged.out" 2>&1 &
  daemons+=($!)
  for _ in $(seq 50); do [ -S "$work/munge.sock" ] && break || sleep 0.1; done
  slurmctld -D -c >"$work/slurmctld.out" 2>&1 &
  daemons+=($!)
  slurmd -D -N "$host" >"$work/slurmd.out" 2>&1 &
  daemons+=($!)
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && return
    sleep 0.3
  done
  tail -n 20 "$work"/*.out >&2
  fail "no node came up"
}

# Until a job has left the queue.
await() {
  for _ in $(seq 600); do
    [ -z "$(squeue --noheader --jobs="$1" 2>/dev/null)" ] && return
    sleep 1
  done
  squeue >&2
  fail "job $1 does not end"
}

# The number of a job from what was printed.
job() { sed -n 's/^job \([0-9]*\):.*/\1/p' "$1"; }

# The process that is at a run, once it has a checkpoint.
at_work() {
  for _ in $(seq 600); do
    if [ -f "$1/checkpoint.safetensors" ]; then
      sed -n 's/^process \([0-9]*\).*/\1/p' "$1/.lock"
      return
    fi
    sleep 0.2
  done
  fail "$1 is not begun"
}

cluster
sinfo --version
plan=(reproduce glue --tasks rte --methods lora,dylora --seeds 10,42 --epochs 1 --checkpoint-every 1)
cd "$work"
echo "== the same runs without Slurm"
"$dylora" "${plan[@]}" --out local --jobs 1 >local.txt 2>/dev/null

submit() { "$dylora" "${plan[@]}" --out shared --launcher slurm --slurm-option=--cpus-per-task=1 --slurm-option=--job-name=own "$@"; }
collect() { "$dylora" "${plan[@]}" --out shared --collect "$@"; }

echo "== four runs: one is killed, one is asked to stop as before a time limit, one is cancelled"
submit 2>/dev/null | tee first.txt
first=$(job first.txt)
[ "$(squeue --noheader --jobs="$first" --format=%j | uniq)" = own ] || fail "--slurm-option does not win"
killed=shared/rte/lora/seed-10
cancelled=shared/rte/dylora/seed-10
stopped=shared/rte/lora/seed-42
pid=$(at_work "$killed")
kill -9 "$pid"
at_work "$stopped" >/dev/null
# Slurm refuses as long as the element is on its way to the node.
for _ in $(seq 20); do scancel --signal=USR1 --batch "${first}_1" 2>/dev/null && break || sleep 0.1; done
echo "== what waits or runs is not submitted twice"
submit --dry-run >script.txt 2>said.txt
grep -E ': (in the queue, job|process [0-9]+ on .* is at it)' said.txt
grep -q '^#SBATCH --array=0-0%16$' script.txt || fail "more than the killed run would be submitted"
at_work "$cancelled" >/dev/null
scancel "${first}_2"
await "$first"
grep -q "stopping after this step" shared/slurm/1/*_2.log || fail "the cancelled run was not asked to stop"
! grep -q "goes on when" shared/slurm/1/*_2.log || fail "the cancelled run was requeued"
cat shared/slurm/1/*_1.log
grep -q "goes on when the job runs again" shared/slurm/1/*_1.log || fail "nothing was requeued"
[ -f "$stopped/record.json" ] || fail "the requeued run has no record"
collect 2>&1 >/dev/null | tee collected.txt | grep missing
grep -q "missing: rte lora seed 10: begun" collected.txt || fail "the killed run is not named"
grep -q "missing: rte dylora seed 10: begun" collected.txt || fail "the cancelled run is not named"

echo "== the killed and the cancelled run alone"
submit 2>/dev/null | tee second.txt
grep -q ": 2 runs" second.txt || fail "not two runs"
await "$(job second.txt)"
collect >shared.txt 2>collected.txt
! grep missing collected.txt || fail "something is missing"
cmp local.txt shared.txt || fail "the tables differ"
cat shared.txt
for run in "$killed" "$stopped" "$cancelled"; do
  grep -q '"resumed": 1' "$run/record.json" || fail "$run was not taken up again"
done
submit 2>&1 | grep "nothing to submit"
echo "== the tables are equal, all three runs were taken up where they were"
