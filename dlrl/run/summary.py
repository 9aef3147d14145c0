"""The results of a finished run: a table, summary.json and curves.png."""

import json
import pathlib
from typing import Any

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.runtime import goodput
from dlrl.storage import metrics as metrics_lib
from dlrl.storage import workdir as workdir_lib


def write(
  cfg: config.Config, workdir: pathlib.Path, seconds: dict[str, float]
) -> dict[str, Any]:
  """Writes curves.png, then summary.json, which marks the run as finished."""
  rows = metrics_lib.rows(workdir)
  evals = [row for row in rows if "test/solved" in row]
  task = tasks.find(cfg.task)
  summary = {
    "before": _held_out(evals[0]),
    "after": _held_out(evals[-1]),
    "n_eval": cfg.eval.size,
    "task": {"name": cfg.task.name, "version": task.version,
             "prompt": tasks.prompt_version(cfg.task),
             "few_shot": cfg.task.few_shot,
             "data_sha256": task.checksum},
    "steps": rows[-1]["step"],
    "wall_seconds": sum(seconds.values()),
    "phase_seconds": seconds,
    "goodput": goodput.read(workdir, seconds),
    "config_fingerprint": strict.fingerprint(cfg),
  }
  method = cfg.learn.loss if cfg.job == "rl" else cfg.job
  title = f"{cfg.task.name}, {method}, seed {cfg.seed}"
  from dlrl.storage import plots  # Matplotlib would delay every start.

  plots.curves(rows, workdir / "curves.png", title=title)
  workdir_lib.write_json(workdir / "summary.json", summary)
  return summary


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The summary of a finished run, or None."""
  path = workdir / "summary.json"
  return json.loads(path.read_text()) if path.exists() else None


def table(summary: dict[str, Any]) -> str:
  """The summary as text for a terminal."""
  before, after = summary["before"], summary["after"]
  task = summary["task"]
  lines = [f"{summary['n_eval']} held-out items, 95% intervals",
           f"test items of {task['name']} {task['version']}, prompt "
           f"{task['prompt']!r}, data {task['data_sha256'][:12]}",
           f"{'':12}{'before':>24}{'after':>24}"]
  for name in (n for n in before if f"{n}_low" in before):
    cells = [f"{r[name]:6.1%} [{r[f'{name}_low']:5.1%}, "
             f"{r[f'{name}_high']:5.1%}]" for r in (before, after)]
    lines.append(f"{name:12}{cells[0]:>24}{cells[1]:>24}")
  seconds = summary["phase_seconds"]
  phases = "  ".join(f"{phase} {each:.0f} s" for phase, each in seconds.items())
  lines.append(f"wall time {summary['wall_seconds']:.0f} s: {phases}")
  if "goodput" in summary:  # older runs have none
    lines.append(goodput.line(summary["goodput"], seconds))
  return "\n".join(lines)


def _held_out(row: dict[str, Any]) -> dict[str, float]:
  return {k.removeprefix("test/"): v for k, v in row.items()
          if k.startswith("test/")}
