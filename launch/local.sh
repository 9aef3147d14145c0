#!/usr/bin/env bash
# Several processes on this machine, to try what runs on many hosts:
#   launch/local.sh 2 --config=configs/bgpo.py --workdir=runs/two
# All devices of one host need one process only; the CPU is divided by
# --config.mesh.cpu_devices. Ends with the code of the process that ended first
# of its own accord.
set -eu
count=$1
shift
python=${PYTHON:-python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  "$python" -m dlrl.main --coordinator="localhost:$port" \
    --num_processes="$count" --process_id="$i" "$@" &
  pids+=("$!")
done

code=0
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal has ended the waiting
    status=0
    wait "$pid" || status=$?
  done
  # 44: another one ended first.
  if ((status != 0 && (code == 0 || code == 44))); then code=$status; fi
done
exit "$code"
