"""Settings that name users' code: it is imported and tried before a run."""

import hashlib
import json
import textwrap

import jax
import jax.numpy as jnp
import pytest

from configs import bgpo
from dlrl import losses
from dlrl import scoring
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl import validate
from dlrl.own_code import imported
from dlrl.own_code import sources
from dlrl.runtime import goodput
from dlrl.runtime import mesh as mesh_lib

LOSSES = """
import jax.numpy as jnp
import numpy as np
from dlrl import losses
from dlrl import tasks
from dlrl.diffusion import forward_process
from dlrl.losses import objective


def plain(scale: float = 1.0):
  return objective.Separable(lambda draw, rows: (
    -scale * draw.score(draw.logps) * rows.advantage, {}))


def joint(group: int = 4):
  def outer(score, rows):
    assert score.shape[0] % group == 0
    return -score * rows.advantage, {"score": score}
  return objective.Joint(
    lambda draw, rows: draw.score(draw.logps), outer, together=group)


def with_reference():
  return objective.Separable(
    lambda draw, rows: (draw.score(draw.ref_logps - draw.logps), {}),
    needs_ref=True)


def per_token():
  return objective.Separable(lambda draw, rows: (-draw.logps, {}))


def scalar_metric():
  return objective.Separable(lambda draw, rows: (
    -draw.score(draw.logps), {"mean": jnp.mean(draw.logps)}))


def scalar_outer():
  return objective.Joint(
    lambda draw, rows: draw.score(draw.logps),
    lambda score, rows: (jnp.mean(score), {}))


def no_metrics():
  return objective.Separable(lambda draw, rows: -draw.score(draw.logps))


def one_argument():
  return objective.Separable(lambda draw: (-draw.score(draw.logps), {}))


def to_numpy():
  def loss(draw, rows):
    return np.asarray(draw.logps).sum(-1), {}
  return objective.Separable(loss)


def old_reference():
  return objective.Separable(
    lambda draw, rows: (draw.score(draw.ref_logps), {}))


def raises():
  raise RuntimeError("two\\nlines")


def needs_an_argument(scale):
  return plain(scale)


def an_array(floor: float = 0.0):
  return floor


number = 3


def stripes(keys, maskable, j, n, *, width: int = 2):
  columns = jnp.arange(maskable.shape[1])[None]
  mask = maskable & (columns // width % n == j)
  return forward_process.Draw(mask, jnp.where(mask, 1.0 * n, 0.0))


def of_blocks(keys, maskable, j, n, *, offset, block_length):
  columns = offset[:, None] + jnp.arange(maskable.shape[1])[None]
  mask = maskable & (columns % block_length == j)
  return mask, mask.astype(jnp.float32)


def only_a_mask(keys, maskable, j, n):
  return maskable


def swapped(keys, maskable, j, n):
  return maskable.astype(jnp.float32), maskable


def of_one_row(key, maskable, j, n):
  return maskable[0], jnp.ones(maskable.shape[1])


def without_draws(keys, maskable):
  return maskable, maskable.astype(jnp.float32)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text(LOSSES)
  (tmp_path / "broken.py").write_text("x = 1\nraise KeyError('no such key')\n")
  (tmp_path / "misspelt.py").write_text("def f(:\n")
  (tmp_path / "imports_more.py").write_text("import no_such_package\n")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
  return tmp_path


def checked(**changes):
  cfg = bgpo.get_config("smoke")
  cfg.learn.loss_args = changes.pop("loss_args", {})
  cfg.learn.process_args = changes.pop("process_args", {})
  cfg.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in changes.items()})
  return validate.from_dict(cfg)


def refused(**changes):
  with pytest.raises(strict.ConfigError) as error:
    checked(**changes)
  assert not isinstance(error.value, strict.ConfigErrors)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_loss_of_a_users_module_is_the_objective():
  cfg = checked(learn__loss="mine:plain", loss_args={"scale": 2.0},
                learn__score_norm="none")
  found = update.objective(cfg.learn)
  ones = jnp.ones((2, 3))
  draw = losses.Scored(-ones, -ones, None, ones > 0, ones)
  rows = losses.Responses(jnp.array([1.0, -1.0]), ones > 0, jnp.ones(2))
  assert found.loss(draw, rows)[0].tolist() == [6, -6]


def test_a_loss_that_compares_rows_or_needs_a_reference_is_tried_with_them():
  group = bgpo.get_config("smoke").rollout.group_size
  checked(learn__loss="mine:joint", learn__score_norm="none",
          loss_args={"group": group})
  checked(learn__loss="mine:with_reference", learn__score_norm="none")


@pytest.mark.parametrize(("name", "said"), [
  ("per_token", "fails: ValueError: Separable.loss returned the loss with the "
   "shape (2, 16); it must be [b] = [2], one number for each response"),
  ("scalar_metric", "returned the metric 'mean' with the shape ()"),
  ("scalar_outer", "Joint.outer returned the loss with the shape ()"),
  ("no_metrics", "it must return the loss [b] and a dict of metrics [b]"),
  ("one_argument", "takes 1 positional argument but 2 were given; "
   "Separable.loss is called as loss(draw, rows)"),
  ("to_numpy", "fails: TracerArrayConversionError: "),
  ("old_reference", "fails: "),
  ("raises", "cannot be called: RuntimeError: two ("),
  ("needs_an_argument", "missing 1 required positional argument: 'scale'"),
  ("an_array", "must be a function that returns losses.Separable or "
   "losses.Joint; it returned float"),
  ("number", "must be a function, got int"),
  ("absent", "cannot be imported: AttributeError: "),
])
def test_a_loss_that_cannot_work_is_refused_in_one_line(name, said):
  message = refused(learn__loss=f"mine:{name}", learn__score_norm="none")
  assert message.startswith(f"config.learn.loss = 'mine:{name}': ")
  assert said in message


def test_the_line_says_where_in_the_users_file(module):
  message = refused(learn__loss="mine:to_numpy", learn__score_norm="none")
  line = 1 + LOSSES.splitlines().index(
    "    return np.asarray(draw.logps).sum(-1), {}")
  assert f"({module / 'mine.py'}:{line})" in message


def test_arguments_of_a_users_loss_are_checked_as_those_of_ours():
  assert "config.learn.loss_args.scal = 1.0: unknown key" in refused(
    learn__loss="mine:plain", learn__score_norm="none",
    loss_args={"scal": 1.0})


@pytest.mark.parametrize(("name", "said"), [
  ("no_such_module:f", "cannot be imported: ModuleNotFoundError: No module "
   "named 'no_such_module'. Is the folder of the module on PYTHONPATH?"),
  ("mine.deeper:f", "'mine' is not a package. Is the folder"),
  (":f", "cannot be imported: ValueError: Empty module name"),
  ("misspelt:f", "cannot be imported: SyntaxError: "),
])
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(name, said):
  for setting in ("learn__loss", "learn__forward_process",
                  "sft__forward_process", "task__name"):
    message = refused(**{setting: name})
    assert message.startswith(f"config.{setting.replace('__', '.')} = ")
    assert said in message


def test_a_module_that_fails_is_not_looked_for_on_the_path(module):
  message = refused(learn__loss="broken:f")
  assert f"KeyError: 'no such key' ({module / 'broken.py'}:2)" in message
  assert "PYTHONPATH" not in message
  message = refused(learn__loss="imports_more:f")
  assert "No module named 'no_such_package'" in message
  assert "PYTHONPATH" not in message


def test_a_name_without_a_colon_is_one_of_ours():
  assert "or name your own as 'package.module:name'" in refused(
    learn__loss="mine")
  assert "or name your own as 'package.module:name'" in refused(
    learn__forward_process="mine")
  with pytest.raises(strict.ConfigError, match="choose from"):
    imported.find(losses.OBJECTIVES, "mine", "learn.loss")


def test_a_users_process_draws_with_its_arguments():
  cfg = checked(learn__forward_process="mine:stripes", learn__n_mc=2,
                process_args={"width": 4}).learn
  maskable = jnp.ones((1, 12), bool)
  draw = scoring.process(cfg.forward_process, jnp.array([3]), 0)(
    jax.random.split(jax.random.key(0), 1), maskable, 1, 2,
    **cfg.process_args)
  assert draw.mask[0].tolist() == [False] * 4 + [True] * 4 + [False] * 4
  checked(sft__forward_process="mine:stripes")


def test_a_users_process_of_blocks_is_given_them():
  name = "mine:of_blocks"
  draw = scoring.process(name, jnp.array([5]), 4)(
    jax.random.split(jax.random.key(0), 1), jnp.ones((1, 6), bool), 1, 4)
  # 5 prompt tokens: the first of the canvas is the second of its block.
  assert draw[0][0].tolist() == [True, False, False, False, True, False]
  checked(learn__forward_process=name, sft__forward_process=name,
          model__block_length=4, rollout__sampler__block_length=4,
          eval__sampler__block_length=4)
  assert "is for models with blocks" in refused(learn__forward_process=name)


@pytest.mark.parametrize(("name", "said"), [
  ("only_a_mask", "returned (bool[2, 16]) for b = 2 and t = 16; it is called "
   "as process(keys [b], maskable [b, t], j, n), and returns the mask"),
  ("swapped", "returned (float32[2, 16], bool[2, 16])"),
  ("of_one_row", "returned (bool[16], float32[16])"),
  ("without_draws", "takes 2 positional arguments but 4 were given"),
  ("number", "must be a function, got int"),
])
def test_a_process_that_cannot_work_is_refused_in_one_line(name, said):
  for setting in ("learn__forward_process", "sft__forward_process"):
    assert said in refused(**{setting: f"mine:{name}"})


def test_a_task_is_found_and_mixed_by_its_own_name(module):
  (module / "mixed_tasks.py").write_text(textwrap.dedent("""
    import dataclasses
    from dlrl import tasks
    OTHER = dataclasses.replace(tasks.TASKS["sudoku"], version="7")
  """))
  cfg = checked(task__name="mixed_tasks:OTHER").task
  assert tasks.find(cfg).version == "7"
  assert tasks.prompt(cfg) is tasks.TASKS["sudoku"].prompts["bare"]
  mixed = checked(task__name="sudoku+mixed_tasks:OTHER").task
  assert tasks.find(mixed).version == "1.1.0+7"
  example = {"puzzle": "1234341221434321", "task": "OTHER"}
  assert tasks.prompt(mixed).question(example) == tasks.TASKS[
    "sudoku"].prompts["bare"].question(example)
  assert "names a task twice" in refused(
    task__name="mixed_tasks:OTHER+mixed_tasks:OTHER")
  assert "must be a dlrl.tasks.Task, got function" in refused(
    task__name="mine:plain")


def test_a_start_records_the_files_and_says_when_one_has_changed(module):
  cfg = checked(learn__loss="mine:plain", learn__score_norm="none",
                sft__forward_process="mine:stripes")
  code = sources.of(cfg)
  digest = hashlib.sha256((module / "mine.py").read_bytes()).hexdigest()
  assert code == {"mine:plain": digest, "mine:stripes": digest}
  run = module / "run"
  run.mkdir()
  assert goodput.start(run, code) == {}
  assert not list(sources.changes(goodput.start(run, code), code))
  with (module / "mine.py").open("a") as f:
    f.write("more = 1\n")
  after = sources.of(cfg)
  first, second = sources.changes(goodput.start(run, after), after)
  new = after["mine:plain"][:12]
  assert first.startswith("mine:plain: its file has changed")
  assert f"({digest[:12]} -> {new})" in first
  assert second.startswith("mine:stripes: ")
  assert [json.loads(line)["own_code"]["mine:plain"] for line in (
    run / "starts.jsonl").read_text().splitlines()] == [
      digest, digest, after["mine:plain"]]


def test_devices_that_a_module_made_are_explained():
  jnp.zeros(1).block_until_ready()
  with pytest.raises(strict.ConfigError, match="a module of yours should make"):
    mesh_lib.split_cpu(7)
