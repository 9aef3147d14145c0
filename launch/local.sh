#!/usr/bin/env bash
# Starts several processes on this machine, to try a job of many hosts:
#   launch/local.sh 2 --config=configs/bgpo.py --workdir=runs/two
#   launch/local.sh 2 evaluate --workdir=runs/two
# One process can use all devices of a host; --config.mesh.cpu_devices splits the
# CPU. The exit code is that of the first process that failed by itself.
set -eu
count=$1 program=dlrl.main
shift
if [[ ${1:-} == evaluate ]]; then
  program=dlrl.evaluate
  shift
fi
python=${PYTHON:-python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  "$python" -m "$program" --coordinator="localhost:$port" \
    --num_processes="$count" --process_id="$i" "$@" &
  pids+=("$!")
done

code=0
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal interrupted wait
    status=0
    wait "$pid" || status=$?
  done
  # 44 only says that another process ended first.
  if ((status != 0 && (code == 0 || code == 44))); then code=$status; fi
done
exit "$code"
