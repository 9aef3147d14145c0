"""`--compile_only` on CPU devices; for TPUs see test_tpu_aot."""

import collections
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from unittest import mock

import jax
import pytest

from configs import bgpo
from dlrl import compile_only
from dlrl import config
from dlrl import rollout
from dlrl import strict
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs import flops as flops_lib
from dlrl.costs import hlo
from dlrl.costs import memory
from dlrl.costs import program_report
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

# Sizes that are like no other, so that arrays can be told by them.
LAYERS, VOCAB, WIDTH, INNER = 3, 104, 64, 176
DRAWS, ROWS, PARTS, TOKENS, BLOCK, STEPS = 2, 64, 2, 16, 8, 8
FSDP, TENSOR = 4, 2


def tiny(**changes):
  cfg = bgpo.get_config("smoke")
  cfg.model.layers = LAYERS
  cfg.model.vocab_size = VOCAB
  cfg.sft.steps = 0
  cfg.rollout.prompts, cfg.rollout.group_size = 8, 8
  cfg.rollout.sampler.block_length = BLOCK
  cfg.learn.n_mc, cfg.learn.micro_batch = DRAWS, ROWS // PARTS
  cfg.learn.logps_chunk = 16
  with cfg.unlocked():
    cfg.update_from_flattened_dict(changes)
  return validate.from_dict(cfg)


@pytest.fixture(scope="module")
def compiled():
  """(setup, reports, the programs)."""
  cfg = dataclasses.replace(tiny(), mesh=config.MeshConfig(1, FSDP, TENSOR))
  setup = setup_lib.make(cfg)
  before = {id(x) for x in jax.live_arrays()}
  programs = []
  of = program_report.of

  def recorded(*args, **kwargs):
    report, program = of(*args, **kwargs)
    programs.append(program)
    return report, program

  with mock.patch.object(program_report, "of", recorded):
    reports = compile_only.compile_all(setup, limit=2**30)
  # Nothing is allocated.
  assert not [x for x in jax.live_arrays() if id(x) not in before]
  return setup, reports, programs


def test_figures_are_those_of_the_programs_that_train(compiled):
  setup, reports, programs = compiled
  stats = [p.memory_analysis() for p in programs]
  cfg, abstract = setup.cfg, train_state.abstract_rl(setup)
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
    (abstract, rollout.input_shapes(setup)))
  assert reports[0].arguments >= (
    stats[0].argument_size_in_bytes + memory.per_device(abstract.opt_state))
  assert reports[1].arguments == pytest.approx(
    stats[1].argument_size_in_bytes, rel=0.01)
  # The update takes over the memory of the state.
  assert reports[1].output < memory.per_device(abstract) / 100
  # Of each denoising step, the block's columns and their logits.
  row = jax.ShapeDtypeStruct(
    (ROWS, TOKENS + cfg.task.prompt_length), "int32")
  with jax.set_mesh(setup.mesh):
    forward = flops_lib.flops(
      setup.model.hidden, abstract.params, row, row,
      jax.ShapeDtypeStruct((ROWS,), "int32"),
      jax.ShapeDtypeStruct((ROWS, BLOCK), "int32"))
  head = 2 * ROWS * BLOCK * WIDTH * VOCAB
  assert reports[0].flops == STEPS * (forward + head) / (FSDP * TENSOR)


def with_vocabulary(text):
  """Positions of each array [..., v, ...] that a device has."""
  found = []
  for dims in re.findall(r"\w\[([\d,]+)\]", text):
    sizes = [int(n) for n in dims.split(",")]
    found += [math.prod(sizes) // v for v in (VOCAB, VOCAB // TENSOR)
              if v in sizes]
  return found


def test_no_device_ever_has_the_logits_of_all_its_tokens(compiled):
  rollout, learn = (with_vocabulary(p.as_text()) for p in compiled[2])
  # The head is an array [d, v], too; more than that are logits.
  assert WIDTH in rollout and WIDTH in learn
  assert max(rollout) <= ROWS // FSDP * BLOCK < ROWS // FSDP * TOKENS
  assert max(learn) <= WIDTH < ROWS // PARTS // FSDP * TOKENS


def gathers(program, *trips):
  """How often arrays split over fsdp are gathered: {(bytes, times): arrays}."""
  return collections.Counter(
    (c.size, c.times) for c in hlo.traffic(program.as_text(), trips).collectives
    if c.kind == "all-gather" and c.devices == FSDP and c.size >= ATTENTION)


# Bytes of one layer's matrices and of the head, as gathered.
MLP, ATTENTION = WIDTH * INNER * 4 // TENSOR, WIDTH * WIDTH * 4 // TENSOR
HEAD = WIDTH * VOCAB * 4 // TENSOR


def test_an_update_gathers_one_layer_at_a_time_twice_per_draw(compiled):
  found = gathers(compiled[2][1])
  layers = DRAWS * PARTS * LAYERS
  head = found.pop((HEAD, PARTS), 0) or found.pop((HEAD, DRAWS * PARTS))
  assert head == 1
  # Forward, and again for the backward pass; never a stack of layers.
  assert found == {(MLP, layers): 2 * 3, (ATTENTION, layers): 2 * 4}
  # A layer's gradients are summed over the rows' devices once, and a device
  # receives its part.
  sums = collections.Counter(
    (c.kind, c.size) for c in hlo.traffic(compiled[2][1].as_text()).collectives
    if c.kind in ("all-reduce", "reduce-scatter") and c.devices == FSDP
    and c.times == layers)
  assert sums == {("reduce-scatter", MLP): 3, ("reduce-scatter", ATTENTION): 4}


def test_a_rollout_gathers_one_layer_at_a_time_once_per_step(compiled):
  found = gathers(compiled[2][0], STEPS)
  # Every device looks up its part of the embeddings of all.
  assert found.pop((ROWS * (TOKENS + 32) * 4, STEPS)) == 1
  assert found.pop((HEAD, 1), 0) or found.pop((HEAD, STEPS)) == 1
  # The last layer stands by itself, and may be gathered before all steps.
  last = 1 if (MLP, 1) in found else STEPS
  assert found == {
    (MLP, STEPS * (LAYERS - 1)): 3, (ATTENTION, STEPS * (LAYERS - 1)): 4,
    (MLP, last): 3, (ATTENTION, last): 4}


def test_shapes_of_inputs_are_those_of_the_loop(sudoku_dir):
  cfg = dataclasses.replace(
    tiny(), task=config.TaskConfig(data_dir=sudoku_dir))
  setup = setup_lib.make(cfg)
  source = rollout.examples(setup)
  batch = next(rollout.prompt_batches(setup, source))
  rows = [source[i] for i in batch["position"].tolist()]
  real = rollout.inputs(setup, batch, rows)
  shapes = rollout.input_shapes(setup)
  assert [(x.shape, x.dtype, x.sharding) for x in real] == [
    (s.shape, s.dtype, s.sharding) for s in shapes]


def test_the_table_says_what_fits_and_what_the_estimate_assumes(compiled):
  _, reports, _ = compiled
  chip = chips.Chip(flops=1e9, hbm=2**30, bandwidth=1e9, links=1e9)
  least = reports[1].least_seconds(chip)
  kernels = reports[1].traffic.kernels
  # Every kernel takes as long as its products or its bytes, and none runs
  # beside another; nothing runs beside the collectives of CPUs.
  assert least["products"] + least["memory"] == pytest.approx(sum(
    n * max(k.flops, k.accessed) for k, n in kernels.items()) / 1e9)
  assert sum(k.flops * n for k, n in kernels.items()) == pytest.approx(
    reports[1].flops, rel=0.001)
  assert reports[1].accessed == sum(k.accessed * n for k, n in kernels.items())
  assert least["links"] == pytest.approx(sum(
    c["bytes"] for c in reports[1].collectives.values()) / 1e9)
  assert least["links beside"] == 0
  small = dataclasses.replace(reports[1], limit=reports[1].needed - 2**20)
  text = compile_only.text(
    [reports[0], small], {"parameters": 2**20}, chip, ["--config.x=1, so"])
  assert "rollout: fits, " in text
  assert "update: does not fit, by 1.0 MiB" in text
  assert compile_only.ASSUMED in text
  assert "  --config.x=1, so" in text
  assert f"{sum(least.values()):,.3f}" in text


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

  mesh = setup_lib.mesh_lib.make(config.MeshConfig(8, 1, 1))
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
    cfg, {"expert": 1} | dict(
      zip(("data", "fsdp", "tensor"), mesh, strict=True)),
    {"parameters": held}, reports)


def flags_of(lines):
  return [x for line in lines for x in line.split(": ")[0].split()
          if x.startswith("--config")]


def test_nothing_is_suggested_where_all_fits():
  assert advice(names=()) == []


def test_suggestions_are_settings_that_can_be_set():
  many = advice(("rollout", "update"), held=90, mesh=(2, 4, 1), **{
    "model.remat": "none", "learn.micro_batch": 32, "learn.logps_chunk": 512,
    "rollout.sampler.cache": "dual"})
  flags = flags_of(many)
  assert flags[0] == "--config.mesh.data=1"
  assert {"--config.model.remat=full", "--config.learn.micro_batch=16",
          "--config.learn.logps_chunk=256",
          "--config.rollout.sampler.cache=none", "--config.rollout.prompts=4",
          "--config.mesh.tensor=2",
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
  validate.from_dict(cfg)


def test_one_device_is_told_of_the_preset_for_one_gpu():
  assert any("bgpo:llada_8b_math_1gpu" in line for line in advice(
    held=90, mesh=(1, 1, 1)))
  assert not any("_1gpu" in line for line in advice(held=90))
  assert not any("_1gpu" in line for line in advice(
    held=90, mesh=(1, 1, 1), **{"lora.rank": 4}))


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
  assert found["mesh"] == {"data": 2, "expert": 1, "fsdp": 2, "tensor": 1}
  rollout, learn = found["programs"]
  assert (rollout["name"], learn["name"]) == ("rollout", "update")
  assert rollout["temporaries"] > 0
  assert learn["collectives"]["all-reduce"]["bytes"] > 0
  assert rollout["fits"] is None  # of a CPU nothing is known
  assert "unknown whether it fits" in done.stdout
  assert [p.name for p in here.iterdir()] == ["out.json"]


@pytest.mark.parametrize("name, path, message", [
  ("v9-4", None, "--compile_only=v9-4: unknown accelerator"),
  ("cpu", "no/x.json", "--json=no/x.json: its directory does not exist"),
])
def test_mistakes_are_found_before_anything_is_compiled(name, path, message):
  with pytest.raises(strict.ConfigError, match=message):
    compile_only.main(tiny(), name, path)
