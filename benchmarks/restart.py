"""Measures a restart, from the command to the end of its first step.

    python -m benchmarks.restart --config=bgpo --repeats=5

Runs `dlrl train` until it has a checkpoint, and starts it again and again from
there: in turns with an empty and with a filled cache of compiled programs. Each
start ends with the first row that it adds to metrics.jsonl. What is compared is
the processor time of its process, which other programs on the machine hardly
change; seconds of the clock are given, too.

Writes `restart_NAME.json` and prints a table; several minutes on 2 CPU cores.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import app
from absl import flags

from benchmarks import results
from dlrl.storage import metrics

CONFIG = flags.DEFINE_string("config", "bgpo:smoke", "config file and preset")
REPEATS = flags.DEFINE_integer("repeats", 5, "starts of each kind", 1)
# The run is made short before the checkpoint; no step evaluates or saves.
SETTINGS = ("--config.sft.steps=20", "--config.eval.every=1000",
            "--config.checkpoint_every=1000", "--config.steps=1000")
_POLL_S = 0.01


def start(workdir: pathlib.Path, step: int, end: signal.Signals
          ) -> dict[str, float]:
  """Starts the run, and ends it by a signal when it has finished `step`.

  Returns:
    `cpu` and `wall`, seconds until then.

  Raises:
    RuntimeError: the run ended by itself.
  """
  began = time.monotonic()
  env = {k: v for k, v in os.environ.items()
         if k != "JAX_COMPILATION_CACHE_DIR"}
  process = subprocess.Popen(
    [sys.executable, "-m", "dlrl.main", f"--config={CONFIG.value}",
     f"--workdir={workdir}", *SETTINGS], env=env, stdout=subprocess.DEVNULL)
  while not (rows := metrics.rows(workdir)) or rows[-1]["step"] < step:
    if process.poll() is not None:
      raise RuntimeError(f"the run ended with code {process.returncode}")
    time.sleep(_POLL_S)
  process.send_signal(end)
  _, _, used = os.wait4(process.pid, 0)
  return {"cpu": used.ru_utime + used.ru_stime,
          "wall": time.monotonic() - began}


def measure() -> dict[str, Any]:
  """Seconds of all starts, by kind."""
  found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
  with tempfile.TemporaryDirectory() as directory:
    workdir, saved = (pathlib.Path(directory, n) for n in ("run", "saved"))
    start(workdir, 1, signal.SIGTERM)  # saves
    done = metrics.rows(workdir)[-1]["step"]
    # A start that goes on needs programs that the one before did not.
    start(workdir, done + 1, signal.SIGKILL)
    workdir.rename(saved)
    for _ in range(REPEATS.value):
      for kind, starts in found.items():
        shutil.copytree(saved, workdir)
        if kind == "cold":
          shutil.rmtree(workdir / "compiled")
        starts.append(start(workdir, done + 2, signal.SIGKILL))
        shutil.rmtree(workdir)
  return {"command": results.command(), "starts": found}


def table(starts: dict[str, list[dict[str, float]]]) -> str:
  """Medians, and the range of the ratios of paired starts."""
  return "\n".join(
    f"{unit}: cold {np.median(cold):.1f} s, warm {np.median(warm):.1f} s, "
    f"ratio {np.median(warm / cold):.2f} ({(warm / cold).min():.2f} to "
    f"{(warm / cold).max():.2f})"
    for unit in ("cpu", "wall")
    for cold, warm in [[np.array([start[unit] for start in starts[kind]])
                        for kind in ("cold", "warm")]])


def main(args: list[str]) -> None:
  """Measures or reads, and prints the table."""
  del args
  name = "restart_" + CONFIG.value.replace(":", "_")
  print(table(results.obtain(name, measure)["starts"]), flush=True)


if __name__ == "__main__":
  app.run(main)
