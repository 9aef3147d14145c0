"""The process of one stage; `runner` starts it."""

import argparse
import importlib
import pathlib

from benchmarks.accelerator import rows as rows_lib
from dlrl.runtime import gpu


def main() -> None:
  """Runs `MODULE.run(rows, dry=...)`."""
  parser = argparse.ArgumentParser()
  parser.add_argument("module")
  parser.add_argument("rows", type=pathlib.Path)
  parser.add_argument("--name", required=True)
  parser.add_argument("--until", type=float, required=True)
  parser.add_argument("--dry", action="store_true")
  parser.add_argument("--deterministic", action="store_true")
  options = parser.parse_args()
  if options.deterministic:
    gpu.deterministic()
  rows = rows_lib.Rows(options.rows, options.name, options.until)
  try:
    importlib.import_module(options.module).run(rows, dry=options.dry)
  except BaseException as e:
    rows.put("all that was left", failed=f"{type(e).__name__}: {e}"[:400])
    raise


if __name__ == "__main__":
  main()
