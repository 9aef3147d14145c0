"""Runs a module with leases of a few seconds: SECONDS MODULE ARGUMENT ..."""

import runpy
import sys

from dlrl.buckets import lease

_, seconds, module, *sys.argv[1:] = sys.argv
lease.SECONDS = float(seconds)
runpy.run_module(module, run_name="__main__", alter_sys=True)
