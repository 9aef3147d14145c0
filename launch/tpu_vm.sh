#!/usr/bin/env bash
# A process on every host of a TPU VM or queued resource; JAX reads from the
# TPU's metadata which is which. The hosts have this repository, installed, in
# ~/dlrl, and a file system that all share for the workdir.
#   launch/tpu_vm.sh NAME ZONE --config=configs/bgpo.py:llada_8b_math \
#     --config.pretrained=/shared/LLaDA-8B-Instruct --workdir=/shared/runs/math
# It goes on when this terminal is closed; each host's output is in ~/dlrl.log.
set -eu
name=$1
zone=$2
shift 2
arguments=$(printf ' %q' "$@")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd ~/dlrl && nohup launch/again.sh ${PYTHON:-.venv/bin/python} \
    -m dlrl.main --distributed $arguments >> ~/dlrl.log 2>&1 < /dev/null &"
