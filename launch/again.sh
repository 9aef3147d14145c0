#!/usr/bin/env bash
# Runs a command, and restarts it after 30 seconds when its exit code asks for
# it (42 stopped by SIGTERM, 43 no progress, 44 another process was lost):
# launch/again.sh python -m dlrl.main ...
set -u
while true; do
  status=0
  "$@" || status=$?
  case $status in
    42 | 43 | 44) echo "again.sh: exit code $status, starting again" >&2 ;;
    *) exit "$status" ;;
  esac
  sleep "${DLRL_PAUSE:-30}"
done
