#!/usr/bin/env bash
# Starts a process on every host of a TPU VM or queued resource; the TPU's
# metadata numbers them. Each host needs this repository, installed, in ~/dlrl,
# and all must share a file system for the workdir.   launch/tpu_vm.sh NAME ZONE
# --config=configs/bgpo.py:llada_8b_math \
# --config.pretrained=/shared/LLaDA-8B-Instruct --workdir=/shared/runs/math The
# job continues when this terminal is closed; output goes to ~/dlrl.log.
set -eu
name=$1
zone=$2
shift 2
arguments=$(printf ' %q' "$@")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd ~/dlrl && nohup launch/again.sh ${PYTHON:-.venv/bin/python} \
    -m dlrl.main --distributed $arguments >> ~/dlrl.log 2>&1 < /dev/null &"
