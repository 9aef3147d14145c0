"""The table and the figure, made from the rows alone."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from matplotlib import axes
from matplotlib import figure

from benchmarks import results
from benchmarks.accelerator import ceilings
from benchmarks.accelerator import goals
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import runner
from benchmarks.accelerator import torch_side
from dlrl.costs import chips
from dlrl.storage import plots

# Column of a speed -> how its value is shown.
COLUMNS: Mapping[str, Callable[[Any], str]] = {
  "rows": "{}".format, "layers": "{}".format, "seconds": "{:.3g}".format,
  "tflops": "{:.4g}".format, "mfu": "{:.1%}".format,
  "tokens_per_s": "{:,.0f}".format, "passes": "{:,}".format,
  "peak_gib": "{:.2f}".format, "planned_gib": "{:.2f}".format}
TITLES = {"tflops": "TFLOP/s of a device", "tokens_per_s": "tokens/s",
          "peak_gib": "peak GiB so far", "planned_gib": "planned GiB"}


def failures(rows: Sequence[rows_lib.Row]) -> list[str]:
  """A line for every check and part that failed."""
  return [f"{row['stage']}: {row['what']}: "
          + row.get("failed", f"wrong: {_numbers(row)}")
          for row in rows if "failed" in row or row.get("ok") is False]


def skipped(rows: Sequence[rows_lib.Row]) -> list[str]:
  """A line for every part that was left out."""
  return [f"{row['stage']}: {row['what']}: {row['skipped']}"
          for row in rows if "skipped" in row]


def table(rows: Sequence[rows_lib.Row], *, dry: bool) -> str:
  """Everything that was found, as Markdown."""
  device = next((row for row in rows if row["what"] == "device"), {})
  name = f"{device.get('count', '?')} x {device.get('kind', 'unknown device')}"
  lines = [f"# dlrl on {name}", ""]
  if dry:
    lines += ["A dry run of tiny shapes: its numbers mean nothing.", ""]
  lines += ["| goal | wanted | measured | |", "| --- | --- | --- | --- |"]
  for goal in goals.of(rows):
    sign = "at least" if goal.at_least else "at most"
    found = "-" if goal.found is None else f"{goal.found:,.4g}"
    verdict = {None: "not measured", True: "met", False: "missed"}[goal.met]
    if dry:
      verdict = "dry run"
    lines.append(
      f"| {goal.what} | {sign} {goal.wanted:,.4g} | {found} | {verdict} |")
  lines += ["", *_speeds(rows), "", *_ceilings(rows), "", *_checks(rows)]
  for title, told in (("Failed", failures(rows)), ("Skipped", skipped(rows))):
    if told:
      lines += ["", f"{title}:", "", *(f"* {line}" for line in told)]
  return "\n".join(lines)


def _speeds(rows: Sequence[rows_lib.Row]) -> list[str]:
  keys = list(COLUMNS)
  lines = [
    "| | " + " | ".join(TITLES.get(key, key) for key in keys) + " |",
    "| --- |" + " --- |" * len(keys)]
  for row in rows:
    if "seconds" in row and _is_speed(row):
      cells = [COLUMNS[key](row[key]) if row.get(key) is not None else "-"
               for key in keys]
      lines.append(f"| {row['what']} | {' | '.join(cells)} |")
  return lines


def _is_speed(row: rows_lib.Row) -> bool:
  return row["what"].startswith(("rollout", "update", torch_side.SAMPLER,
                                 torch_side.UPDATE))


def _ceilings(rows: Sequence[rows_lib.Row]) -> list[str]:
  lines = ["| ceiling | measured | of the data sheet |", "| --- | --- | --- |"]
  for what, key, unit, share in (
      (ceilings.CHAIN, "tflops", "TFLOP/s", "mfu"),
      (ceilings.COPY, "gb_per_s", "GB/s", "share")):
    row = next((r for r in rows if r["what"] == what and key in r), None)
    if row is not None:
      of = f"{row[share]:.1%}" if share in row else "-"
      lines.append(f"| {what} | {row[key]:,.4g} {unit} | {of} |")
  return lines


def _checks(rows: Sequence[rows_lib.Row]) -> list[str]:
  return ["| compared with the CPU | | |", "| --- | --- | --- |", *(
    f"| {row['what']} | {'right' if row['ok'] else '**wrong**'} | "
    f"{_numbers(row)} |" for row in rows if "ok" in row)]


def _numbers(row: rows_lib.Row) -> str:
  return ", ".join(
    f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
    for key, value in row.items() if key not in ("stage", "what", "ok"))


def draw(rows: Sequence[rows_lib.Row], *, dry: bool) -> figure.Figure:
  """Speeds, memory and tokens as bars; what was not measured is not there."""
  device = next((row for row in rows if row["what"] == "device"), {})
  kind = device.get("kind", "unknown device")
  fig, panels = results.page(
    f"dlrl on {device.get('count', '?')} x {kind}"
    + (" (dry run: the numbers mean nothing)" if dry else ""),
    rows=2, columns=2, size=(10, 6.4))
  named = [row for row in rows if _is_speed(row)]
  _bars(panels[0], "TFLOP/s of a device", named, "tflops")
  ceiling = next((r["tflops"] for r in rows if r["what"] == ceilings.CHAIN
                  and "tflops" in r), None)
  for x, label in ((ceiling, "measured product"), (_peak(kind), "data sheet")):
    if x:
      style = "--" if label == "measured product" else ":"
      panels[0].axvline(x, color=plots.INK, lw=1, ls=style, label=label)
      panels[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right",
                       bbox_to_anchor=(1.02, 0.98))
  _bars(panels[1], "GiB at the worst moment so far", [
    row for row in named if row["what"].startswith("update")], "peak_gib")
  _bars(panels[2], "tokens per second of rollouts", named, "tokens_per_s")
  found = goals.of(rows)
  shown = [goal for goal in found if goal.found is not None]
  _draw_bars(panels[3], "measured, to what is wanted (of memory at most)",
             [goal.what.partition(" (")[0] for goal in shown],
             [(goal.found or 0) / goal.wanted for goal in shown])
  panels[3].axvline(1, color=plots.INK, lw=1, ls="--")
  return fig


def _peak(kind: str) -> float | None:
  chip = chips.find(kind)
  return chip.flops / 1e12 if chip else None


def _bars(ax: axes.Axes, title: str, rows: Sequence[rows_lib.Row], key: str
          ) -> None:
  found = [row for row in rows if row.get(key) is not None]
  _draw_bars(ax, title, [row["what"] for row in found],
             [row[key] for row in found])


def _draw_bars(ax: axes.Axes, title: str, names: list[str],
               values: list[float]) -> None:
  ax.set_title(title, loc="left", fontsize=9.5)
  ax.grid(visible=False, axis="y")
  if not names:
    ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
    return
  # The first on top.
  bars = ax.barh(names[::-1], values[::-1], color=results.COLOURS[0])
  ax.bar_label(bars, [f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
                      for x in values[::-1]], padding=3, fontsize=8)
  ax.tick_params(axis="y", labelsize=8)
  ax.margins(x=0.15)


def ended(rows: Sequence[rows_lib.Row]) -> str:
  """One line: the seconds of each stage."""
  return "seconds by stage: " + ", ".join(
    f"{row['stage']} {row['seconds']:.0f}" for row in rows
    if row["what"] == runner.END and "seconds" in row)
