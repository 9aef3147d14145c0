"""Moved to `dlrl.sandbox.sandbox`; this name goes with version 0.3."""

import runpy

if __name__ == "__main__":
  runpy.run_module("dlrl.sandbox.sandbox", run_name="__main__")
