"""Rollouts of SDAR-4B's shape, 128 rows at once on one device."""

from benchmarks.accelerator import arrays
from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rollouts
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl.run import setup as setup_lib

ROWS = 128
NAME = "rollout, SDAR-4B"


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """The rollout."""
  return {NAME: rollouts.program(_setup(scale))}


def _setup(scale: scale_lib.Scale) -> setup_lib.Setup:
  return scale_lib.sdar(scale, 8 if scale.dry else ROWS)


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Measures it, without FLOPs: memory is what bounds it."""
  scale = scale_lib.present(rows, dry=dry)
  setup = _setup(scale)
  params = arrays.weights(setup.abstract_params())
  for name, compiled in programs_lib.compiled(
      {NAME: rollouts.program(setup)}, rows):
    rows.attempt(name, rollouts.measure, scale, rows, name, setup, compiled,
                 params)
