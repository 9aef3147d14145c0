#!/usr/bin/env bash
# Runs dlrl on every host of a TPU VM or queued resource; the TPU's metadata
# numbers the processes. Each host needs this repository in ~/dlrl, and all must
# share a file system for the workdir.
#   launch/tpu_vm.sh NAME ZONE setup
#   launch/tpu_vm.sh NAME ZONE start --env=HF_TOKEN \
#     --config=configs/bgpo.py:llada_8b_math \
#     --config.pretrained=GSAI-ML/LLaDA-8B-Instruct --workdir=/shared/runs/math
#   launch/tpu_vm.sh NAME ZONE start evaluate --workdir=/shared/runs/math
#   launch/tpu_vm.sh NAME ZONE status | logs | stop
# `--env=VARIABLE`, before the other flags, gives the hosts a variable of this
# shell, by a file: no list of processes shows it. The run continues when this
# terminal is closed; output goes to ~/dlrl.log. `stop` sends SIGTERM, after
# which the run saves and ends; the same start continues it.
set -eu
if (($# < 3)); then
  echo "usage: $0 NAME ZONE setup|start|status|logs|stop ..." >&2
  exit 2
fi
name=$1 zone=$2 action=$3
shift 2

everywhere() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$1"
}

case $action in
setup)
  everywhere "cd ~/dlrl && python3 -m venv .venv &&
    .venv/bin/pip install -q -c constraints.txt -e '.[${EXTRA:-tpu},wandb]'"
  ;;
start | --*) # the word may be left out
  [[ $action != start ]] || shift
  program=dlrl.main
  if [[ ${1:-} == evaluate ]]; then
    program=dlrl.evaluate
    shift
  fi
  file=$(mktemp) # that only this user reads
  trap 'rm -f "$file"' EXIT
  while [[ ${1:-} == --env=* ]]; do
    variable=${1#--env=}
    shift
    if [[ ! $variable =~ ^[A-Za-z_][A-Za-z0-9_]*$ || -z ${!variable:-} ]]; then
      echo "--env=...: must name a variable that is set here" >&2
      exit 2
    fi
    printf 'export %s=%q\n' "$variable" "${!variable}" >> "$file"
  done
  if [[ -s $file ]]; then
    gcloud compute tpus tpu-vm scp "$file" "$name:.dlrl.env" --zone="$zone" \
      --worker=all
  fi
  arguments=$(printf ' %q' "$@")
  # The lock is held by all that inherit it, to the last of them to end.
  everywhere "
  cd ~/dlrl && if [ -e ~/.dlrl.env ]; then
    . ~/.dlrl.env; rm ~/.dlrl.env; fi && exec 9> ~/dlrl.lock &&
  { flock -n 9 || { echo 'a run is going on here: stop it first' >&2; exit 3; }
  } && { nohup launch/again.sh ${PYTHON:-.venv/bin/python} \
    -m $program --distributed $arguments >> ~/dlrl.log 2>&1 < /dev/null &
    echo \$! > ~/dlrl.pid; }"
  ;;
status)
  everywhere "if flock -n ~/dlrl.lock true; then echo \"\$(hostname): stopped\"
    else echo \"\$(hostname): running\"; fi; tail -n 3 ~/dlrl.log"
  ;;
logs) # of every host, each line with its name
  everywhere "sed \"s/^/\$(hostname): /\" ~/dlrl.log"
  ;;
stop) # again.sh first, or it would start the run again
  everywhere "if flock -n ~/dlrl.lock true; then echo 'no run is going on'; else
    pid=\$(cat ~/dlrl.pid) && child=\$(pgrep -P \"\$pid\"); kill \"\$pid\" \$child
  fi"
  ;;
*)
  echo "$0: '$action' is not setup, start, status, logs or stop" >&2
  exit 2
  ;;
esac
