"""`--compile_only` on CPU devices; for TPUs see test_tpu_aot."""

import dataclasses
import json
import os
import subprocess
import sys
from unittest import mock

import jax
import pytest

from configs import bgpo
from dlrl import compile_only
from dlrl import config
from dlrl import config_check
from dlrl import setup as setup_lib
from dlrl import train
from dlrl.runtime import chips
from dlrl.runtime import flops as flops_lib
from dlrl.runtime import memory
from dlrl.runtime import program_report
from dlrl.runtime import strict


def tiny(**changes):
  cfg = bgpo.get_config("smoke")
  cfg.model.layers = 2
  cfg.sft.steps = 0
  cfg.rollout.prompts, cfg.learn.n_mc = 8, 2
  with cfg.unlocked():
    cfg.update_from_flattened_dict(changes)
  return config_check.from_dict(cfg)


@pytest.fixture(scope="module")
def compiled():
  """(setup, reports, what XLA says of the memory of each)."""
  cfg = dataclasses.replace(tiny(), mesh=config.Mesh(1, 4, 2))
  setup = setup_lib.make(cfg)
  before = len(jax.live_arrays())
  stats = []
  of = program_report.of

  def recorded(*args, **kwargs):
    report, program = of(*args, **kwargs)
    stats.append(program.memory_analysis())
    return report, program

  with mock.patch.object(program_report, "of", recorded):
    reports = compile_only.compile_all(setup, limit=2**30)
  assert len(jax.live_arrays()) == before  # nothing is allocated
  return setup, reports, stats


def test_figures_are_those_of_the_programs_that_train(compiled):
  setup, reports, stats = compiled
  cfg, abstract = setup.cfg, train.abstract_state(setup)
  assert [r.name for r in reports] == ["rollout", "update"]
  for r, stat in zip(reports, stats, strict=True):
    assert r.temporaries == stat.temp_size_in_bytes
    assert r.output == stat.output_size_in_bytes - stat.alias_size_in_bytes
    assert r.needed == r.arguments + r.temporaries + r.output + r.code
    assert r.fits
    assert r.seconds > 0
    assert r.accessed > r.arguments
    assert r.collectives["all-gather"]["bytes"] > 0
  # What the rollout does not take, the moments, lies there all the same.
  assert reports[0].arguments == memory.per_device(
    (abstract, train.input_shapes(setup)))
  assert reports[0].arguments >= (
    stats[0].argument_size_in_bytes + memory.per_device(abstract.opt_state))
  assert reports[1].arguments == pytest.approx(
    stats[1].argument_size_in_bytes, rel=0.01)
  # The update takes over the memory of the state.
  assert reports[1].output < memory.per_device(abstract) / 100
  # Of each denoising step, the block's columns and their logits.
  sampler, rows, width = cfg.rollout.sampler, 32, 32 + 16
  row = jax.ShapeDtypeStruct((rows, width), "int32")
  with jax.set_mesh(setup.mesh):
    forward = flops_lib.flops(
      setup.model.hidden, abstract.params, row, row,
      jax.ShapeDtypeStruct((rows,), "int32"),
      jax.ShapeDtypeStruct((rows, 16), "int32"))
  head = 2 * rows * 16 * cfg.model.width * cfg.model.vocab_size
  assert reports[0].flops == sampler.steps * (forward + head) / 8


def test_shapes_of_inputs_are_those_of_the_loop(sudoku_dir):
  cfg = dataclasses.replace(
    tiny(), task=config.Task(data_dir=sudoku_dir))
  setup = setup_lib.make(cfg)
  source = train.prompt_rows(setup)
  batch = next(train.prompt_batches(setup, source))
  rows = [source[i] for i in batch["position"].tolist()]
  real = train.inputs(setup, batch, rows)
  shapes = train.input_shapes(setup)
  assert [(x.shape, x.dtype, x.sharding) for x in real] == [
    (s.shape, s.dtype, s.sharding) for s in shapes]


def test_the_table_says_what_fits_and_what_the_estimate_assumes(compiled):
  _, reports, _ = compiled
  chip = chips.Chip(flops=1e9, hbm=2**30, bandwidth=1e9, links=1e9)
  least = reports[1].least_seconds(chip)
  assert least["products"] == reports[1].flops / 1e9
  assert least["memory"] == reports[1].accessed / 1e9
  assert least["links"] == sum(
    c["bytes"] for c in reports[1].collectives.values()) / 1e9
  small = dataclasses.replace(reports[1], limit=reports[1].needed - 2**20)
  text = compile_only.text(
    [reports[0], small], {"parameters": 2**20}, chip, ["--config.x=1, so"])
  assert "rollout: fits, " in text
  assert "update: does not fit, 1.0 MiB too much" in text
  assert compile_only.ASSUMED in text
  assert "  --config.x=1, so" in text
  assert f"{max(least.values()):,.3f}" in text


TOO_LARGE = {
  "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of "
  "15.75G hbm. Exceeded hbm capacity by 4.75G.": (20.5, 15.75),
  "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
  "HLO temporaries (298.12G) exceeds available HBM (31.25G).": (298.12, 31.25),
}


@pytest.mark.parametrize("message", TOO_LARGE)
def test_what_the_compiler_refuses_is_reported_with_its_figures(message):
  class Program:
    def lower(self, *args):
      return self

    def compile(self):
      raise jax.errors.JaxRuntimeError(message)

  mesh = setup_lib.mesh_lib.make(config.Mesh(8, 1, 1))
  with jax.set_mesh(mesh):
    report, compiled = program_report.of(
      "update", Program(), (), flops=80, while_trips=(), limit=1)
  assert compiled is None
  assert report.fits is False
  assert (report.needed, report.limit) == tuple(
    int(n * 2**30) for n in TOO_LARGE[message])
  assert report.flops == 10
  assert "does not fit" in compile_only.text(
    [report], {}, chips.find("TPU v5 lite"), [])


def test_other_errors_of_the_compiler_are_not_swallowed():
  class Program:
    def lower(self, *args):
      return self

    def compile(self):
      raise jax.errors.JaxRuntimeError("INTERNAL: mosaic failed")

  with pytest.raises(jax.errors.JaxRuntimeError, match="mosaic"):
    program_report.of(
      "update", Program(), (), flops=80, while_trips=(), limit=1)


def advice(names=("update",), held=0, mesh=(1, 8, 1), **changes):
  cfg = tiny(**changes)
  reports = [program_report.Report(
    name, 1.0, None, None, None, None, 200, 100, 1.0, None, None)
    for name in names]
  return compile_only.suggestions(
    cfg, dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)),
    {"parameters": held}, reports)


def flags_of(lines):
  return [x for line in lines for x in line.split(",")[0].split()
          if x.startswith("--config")]


def test_nothing_is_suggested_where_all_fits():
  assert advice(names=()) == []


def test_suggestions_are_settings_that_can_be_set():
  many = advice(("rollout", "update"), held=90, mesh=(2, 4, 1), **{
    "model.remat": "none", "learn.micro_batch": 32, "learn.logps_chunk": 16,
    "rollout.sampler.cache": "dual"})
  flags = flags_of(many)
  assert flags[0] == "--config.mesh.data=1"
  assert {"--config.model.remat=full", "--config.learn.micro_batch=16",
          "--config.learn.logps_chunk=8", "--config.rollout.sampler.cache=none",
          "--config.rollout.prompts=4", "--config.mesh.tensor=2",
          "--config.learn.optimizer.moment_dtype=bfloat16",
          "--config.lora.rank=128"} <= set(flags)
  assert many[-1].startswith("more devices")
  values = {name.removeprefix("--config."): value for name, value in (
    f.split("=") for f in flags if "mesh" not in f)}
  cfg = bgpo.get_config("smoke")
  for name, value in values.items():
    kind = type(cfg.to_dict()[name.split(".")[0]]) and value
    old = cfg
    for key in name.split("."):
      old = old[key]
    cfg.update_from_flattened_dict({name: type(old)(kind)})
  cfg.learn.micro_batch = 16
  config_check.from_dict(cfg)


def test_micro_batches_stay_a_multiple_of_the_devices():
  assert "--config.learn.micro_batch=8" in flags_of(
    advice(**{"learn.micro_batch": 16}))
  assert not any("micro_batch" in f for f in flags_of(
    advice(**{"learn.micro_batch": 8})))


CONFIG = os.path.abspath(bgpo.__file__)


def run(tmp_path, *flags):
  here, home = tmp_path / "here", tmp_path / "home"
  here.mkdir()
  process = subprocess.run(
    [sys.executable, "-m", "dlrl.main", f"--config={CONFIG}:smoke", *flags],
    cwd=here, text=True, capture_output=True, timeout=300, check=False, env={
      **os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
      "JAX_PLATFORMS": "cpu", "HOME": str(home)})
  return process, here


@pytest.mark.slow
def test_the_command_needs_no_workdir_and_leaves_nothing_but_its_json(tmp_path):
  done, here = run(
    tmp_path, "--compile_only=cpu-4", "--json=out.json",
    "--config.model.layers=1", "--config.sft.steps=0",
    "--config.learn.n_mc=1", "--config.mesh.fsdp=2")
  assert done.returncode == 0, done.stderr
  found = json.loads((here / "out.json").read_text())
  assert found["devices"] == 4
  assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
  rollout, learn = found["programs"]
  assert (rollout["name"], learn["name"]) == ("rollout", "update")
  assert rollout["temporaries"] > 0
  assert learn["collectives"]["all-reduce"]["bytes"] > 0
  assert rollout["fits"] is None  # of a CPU nothing is known
  assert "whether it fits is not known" in done.stdout
  assert [p.name for p in here.iterdir()] == ["out.json"]


def test_without_both_a_workdir_and_devices_there_is_nothing_to_do(tmp_path):
  done, _ = run(tmp_path)
  assert done.returncode == 2
  assert ("Flag --workdir must have a value, or --compile_only" in done.stderr)


@pytest.mark.parametrize("name, path, message", [
  ("v9-4", None, "--compile_only=v9-4: names no accelerator"),
  ("cpu", "no/x.json", "--json=no/x.json: its directory does not exist"),
])
def test_mistakes_are_found_before_anything_is_compiled(name, path, message):
  with pytest.raises(strict.ConfigError, match=message):
    compile_only.main(tiny(), name, path)
