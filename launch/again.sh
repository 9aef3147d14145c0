#!/usr/bin/env bash
# Runs a command, again whenever it ends with a code that asks for it (42 told
# to stop, 43 stuck, 44 another process was lost), 30 seconds later:
#   launch/again.sh python -m dlrl.main ...
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
