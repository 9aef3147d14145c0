"""The results of a finished run: a table, summary.json and curves.png."""

import pathlib
from typing import Any

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.buckets import mirror
from dlrl.runtime import goodput
from dlrl.runtime import own_files
from dlrl.runtime import progress
from dlrl.storage import metrics as metrics_lib
from dlrl.storage import workdir as workdir_lib


def write(
  cfg: config.Config, workdir: pathlib.Path, seconds: dict[str, float]
) -> dict[str, Any]:
  """Writes curves.png, then summary.json, which marks the run as finished."""
  rows = metrics_lib.rows(workdir)
  strict.require(
    bool(rows), "workdir", str(workdir), "its metrics.jsonl lacks the rows of "
    "the run; restore it, or start again in another --workdir",
    strict.FlagError)
  task = tasks.find(cfg.task, cfg.rollout.rewards)
  # Both kinds of items are evaluated before the first step and after the last.
  # Users' files may have no test. A metric that was not known then is absent.
  part = "test" if "test/items" in rows[-1] else "eval"
  before, after = _held_out(rows[0], part), _held_out(rows[-1], part)
  summary = {
    "before": before,
    "after": after,
    "split": "test" if part == "test" else cfg.eval.split,
    "n_eval": int(after.get("items", cfg.eval.size)),
    "unbounded": list(task.unbounded),
    "task": {"name": cfg.task.name, "version": task.version,
             "prompt": tasks.prompt_version(cfg.task),
             "few_shot": cfg.task.few_shot,
             "data_sha256": task.checksum},
    "steps": rows[-1]["step"],
    "wall_seconds": sum(seconds.values()),
    "phase_seconds": seconds,
    **goodput_of(workdir, seconds),
    "config_fingerprint": strict.fingerprint(cfg),
  }
  method = cfg.learn.loss if cfg.job == "rl" else cfg.job
  title = f"{cfg.task.name}, {method}, seed {cfg.seed}"
  from dlrl.storage import plots  # Matplotlib would delay every start.

  plots.curves(rows, workdir / "curves.png", title=title)
  mirror.push(workdir / "curves.png")
  workdir_lib.write_json(workdir / "summary.json", summary)
  return summary


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The summary of a finished run, or None.

  Raises:
    strict.FlagError: the file is there and is no summary.
  """
  path = workdir / "summary.json"
  if not path.exists():
    return None
  try:
    summary = own_files.read_object(path)
    table(summary)
  except (ValueError, LookupError, TypeError, AttributeError) as e:
    raise strict.FlagError(
      "workdir", str(workdir), f"{path} is not the summary of a run "
      f"({type(e).__name__}: {e}); delete it, and the same command writes it "
      "again") from e
  return summary


def table(summary: dict[str, Any]) -> str:
  """The summary as text for a terminal."""
  before, after = summary["before"], summary["after"]
  task = summary["task"]
  split = summary.get("split", "test")  # older runs have none
  lines = [f"{summary['n_eval']} held-out items, 95% intervals",
           f"{split} items of {task['name']} {task['version']}, prompt "
           f"{task['prompt']!r}, data {task['data_sha256'][:12]}",
           f"{'':12}{'before':>24}{'after':>24}"]
  counts = ("items", "infrastructure_errors")
  found = {**before, **after}
  names = [name for name in found if name not in counts and not (
    name.endswith(("_low", "_high")) and name.rpartition("_")[0] in found)]
  for name in names or ["solved"]:
    share = name not in summary.get("unbounded", ())
    cells = [_cell(r, name, share) for r in (before, after)]
    lines.append(f"{name:12}{cells[0]:>24}{cells[1]:>24}")
  lost = [int(r.get("infrastructure_errors", 0)) for r in (before, after)]
  if any(lost):
    lines.append(f"{'items lost':12}{lost[0]:>24}{lost[1]:>24}")
  seconds = summary["phase_seconds"]
  phases = "  ".join(f"{phase} {each:.0f} s" for phase, each in seconds.items())
  lines.append(f"wall time {summary['wall_seconds']:.0f} s: {phases}")
  if "goodput" in summary:  # older runs have none
    lines.append(goodput.line(summary["goodput"], seconds))
  return "\n".join(lines)


def _cell(row: dict[str, float], name: str, share: bool) -> str:
  """A metric with its interval; in percent if it is a share."""
  if name not in row:
    return "not known"
  mean, ends = row[name], [row.get(f"{name}_{end}") for end in ("low", "high")]
  if None in ends:
    return f"{mean:.1%}" if share else f"{mean:.4g}"
  low, high = ends
  return (f"{mean:6.1%} [{low:5.1%}, {high:5.1%}]" if share
          else f"{mean:.4g} [{low:.4g}, {high:.4g}]")


def goodput_of(workdir: pathlib.Path, seconds: dict[str, float]
               ) -> dict[str, Any]:
  """`{"goodput": ...}`; empty, after a line, if it cannot be computed."""
  try:
    return {"goodput": goodput.read(workdir, seconds)}
  except (OSError, ValueError, LookupError, TypeError) as e:
    # Not worth the results of a run that has come to its end.
    progress.say("goodput is not known, because starts.jsonl is damaged: "
                 f"{type(e).__name__}: {e}")
    return {}


def _held_out(row: dict[str, Any], part: str) -> dict[str, float]:
  return {k.removeprefix(f"{part}/"): v for k, v in row.items()
          if k.startswith(f"{part}/")}
