"""The promises about the loop."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
import runs

from dlrl import data
from dlrl import losses
from dlrl import tasks
from dlrl import update
from dlrl.run import grading
from dlrl.run import step_log
from dlrl.run import train_state
from dlrl.storage import checkpoint
from dlrl.storage import metrics


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
  {}, dict(learn__loss="espo", learn__loss_args={"kl_coef": 0.5},
           learn__score_norm="none"),
  dict(rollout__prior__memory=0.5, rollout__prior__min_reward=0.0)],
  ids=["bgpo", "espo with a reference", "stp with a memory"])
def test_what_followed_the_last_checkpoint_is_not_logged_twice(
    changes, sudoku_dir, tmp_path, monkeypatch):
  few_prompts(monkeypatch)
  cfg = runs.tiny(sudoku_dir, steps=4, **changes)
  _, want = runs.run_here(cfg, tmp_path / "whole")
  # Every prompt comes back in every step, and is remembered from the second on.
  assert [row["rollout/free"] for row in want[1:]] == (
    [1, 0.5, 0.5, 0.5] if cfg.rollout.prior.memory else [1] * 4)
  # Step 3 is logged, step 2 was the last one saved.
  runs.cut(cfg, tmp_path / "cut", monkeypatch)
  logged = runs.timeless(tmp_path / "cut")
  assert [row["step"] for row in logged] == [0, 1, 2, 3]
  assert runs.run_here(cfg, tmp_path / "cut")[1] == want


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(
    sudoku_dir, tmp_path, capsys):
  cfg = runs.tiny(sudoku_dir, steps=4)
  _, want = runs.run_here(cfg, tmp_path / "run")
  array = max((tmp_path / "run" / "checkpoints" / "4").rglob("d/*"),
              key=lambda path: path.stat().st_size)
  array.write_bytes(bytes(array.stat().st_size))
  assert runs.run_here(cfg, tmp_path / "run")[1] == want
  assert "continuing after step 2" in capsys.readouterr().out


@pytest.mark.slow
def test_pruned_rollouts_are_shorter_and_keep_the_template(
    sudoku_dir, tmp_path, monkeypatch, unoptimized):
  batches = []
  real = update.make

  def make(*args):
    step = real(*args)

    def learn(state, batch):
      jax.debug.callback(lambda *x: batches.append(x), batch.prompt,
                         batch.completion, batch.maskable, batch.trace)
      return step(state, batch)

    return learn

  monkeypatch.setattr(update, "make", make)
  cfg = runs.tiny(sudoku_dir, steps=2, rollout__prior__template=1.0,
             rollout__sampler__fill_after=0.5)
  _, rows = runs.run_here(cfg, tmp_path / "run")
  jax.effects_barrier()
  assert len(batches) == 2
  for row, (prompt, completion, free, trace) in zip(
      rows[1:], batches, strict=True):
    digits = prompt[:, 16:]  # after the names of the cells
    blank = digits == digits.min()  # the id of 0
    np.testing.assert_array_equal(free, blank)
    np.testing.assert_array_equal(completion[~free], digits[~blank])
    np.testing.assert_array_equal(trace == -1, ~free)
    assert row["rollout/free"] == free.mean()
    # Half of 8 to 12 tokens, two per step, and then the rest at once.
    assert row["rollout/forwards"] == -(-free.sum(1).max() // 4) + 1


def few_prompts(monkeypatch, rows=4):
  """Rollouts are of no other than `rows` puzzles."""
  task = tasks.TASKS["sudoku"]

  def load(*args, field):
    found = task.load(*args, field=field)
    # Fine-tuning has all: Grain takes long to shuffle a handful.
    return found[:rows] if field == "rollout.difficulty" else found

  monkeypatch.setitem(
    tasks.TASKS, "sudoku", dataclasses.replace(task, load=load))


@pytest.mark.slow
def test_what_no_reward_is_known_of_teaches_nothing_and_is_not_remembered(
    sudoku_dir, tmp_path, monkeypatch):
  few_prompts(monkeypatch)
  unknown = dataclasses.replace(tasks.TASKS["sudoku"], rewards={
    "units": lambda prompts, completions, **columns: [None] * len(completions)})
  monkeypatch.setitem(tasks.TASKS, "sudoku", unknown)
  cfg = runs.tiny(sudoku_dir, steps=2, rollout__prior__memory=0.5,
             rollout__prior__min_reward=0.0)
  _, rows = runs.run_here(cfg, tmp_path / "run")
  for row in rows[1:]:
    assert row["reward/infrastructure_errors"] == 16
    assert row["reward/mean"] is None
    assert row["update/grad_norm"] == 0
    assert row["update/zero_groups"] == 1
    assert row["rollout/free"] == 1  # of a prompt that comes back


@pytest.mark.slow
def test_a_mixture_is_trained_and_evaluated_by_task(sudoku_dir, tmp_path):
  cfg = runs.tiny(
    sudoku_dir, steps=1, task__name="sudoku+countdown_digits",
    task__weights=(1.0, 3.0), sft__difficulty=(1, 6),
    rollout__difficulty=(1, 12), eval__difficulty=(1, 12), eval__split="test",
    rollout__rewards=("solved", "test_train:shorter", "tokens_per_forward"),
    rollout__reward_weights=(1.0, 0.1, 0.5), rollout__normalize="each")
  _, rows = runs.run_here(cfg, tmp_path / "run")
  step = rows[-1]
  for prefix in ("rollout", "eval", "test"):
    assert {"solved", "sudoku/solved", "sudoku/cells", "countdown_digits/easy",
            } <= {key.removeprefix(f"{prefix}/") for key in step}
  assert step["reward/mean"] == pytest.approx(
    step["reward/solved"] + 0.1 * step["reward/shorter"]
    + 0.5 * step["reward/tokens_per_forward"])
  assert step["reward/tokens_per_forward"] == pytest.approx(
    step["rollout/tokens_per_forward"]) and step["update/grad_norm"] > 0
  assert step["reward/shorter"] < 0


def shorter(prompts, completions, *, task, **columns):
  assert collections.Counter(task) == {"sudoku": 4, "countdown_digits": 12}
  return [-float(len(text)) for text in completions]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not(
    sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, steps=2)
  _, first = runs.run_here(cfg, tmp_path / "a")
  _, again = runs.run_here(cfg, tmp_path / "b")
  cfg = runs.tiny(sudoku_dir, steps=2, seed=1)
  _, other = runs.run_here(cfg, tmp_path / "c")
  assert first == again
  assert first != other


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_step(
    sudoku_dir, tmp_path, monkeypatch):
  compiled, at_step = [], []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **kw: compiled.append(name)
    if name.endswith("backend_compile_duration") else None)
  real = data.rl_batches

  def counting(*args, **kwargs):
    batches = real(*args, **kwargs)
    step = type(batches).__next__

    class Counting:
      def __getattr__(self, name):
        return getattr(batches, name)

      def __next__(self):
        at_step.append(len(compiled))
        return step(batches)

    return Counting()

  monkeypatch.setattr(data, "rl_batches", counting)
  monkeypatch.setattr(
    checkpoint.Checkpoints, "save", lambda *args, **kwargs: None)
  runs.run_here(runs.tiny(sudoku_dir, eval__every=2), tmp_path / "run")
  assert len(at_step) == 6
  assert at_step[1] > at_step[0] > 0  # the first step compiles
  assert set(at_step[2:]) == {at_step[2]}
  assert len(compiled) == at_step[2]


@pytest.mark.slow
def test_a_step_reads_its_tokens_and_the_metrics_of_the_step_before(
    sudoku_dir, tmp_path, monkeypatch):
  reads, hidden, inside = [], [], []
  real_get, real_begin = jax.device_get, step_log.StepLog.begin
  array = type(jax.numpy.zeros(1))
  real_value = array._value  # behind float(), int(), bool() and device_get

  def get(tree):
    reads.append(jax.tree.structure(tree).num_leaves)
    inside.append(True)
    try:
      return real_get(tree)
    finally:
      inside.pop()

  def value(self):
    if not inside:
      hidden.append(self.shape)
    return real_value.fget(self)

  def begin(self, step, *args):
    reads.append(f"update {step}")
    del hidden[: None if step == 1 else 0]  # compiling reads constants
    return real_begin(self, step, *args)

  monkeypatch.setattr(jax, "device_get", get)
  monkeypatch.setattr(array, "_value", property(value))
  def telling(name):
    real = getattr(grading, name)
    return lambda *args: reads.append(name) or real(*args)

  monkeypatch.setattr(step_log.StepLog, "begin", begin)
  for name in ("rewards", "metrics"):
    monkeypatch.setattr(grading, name, telling(name))
  cfg = runs.tiny(sudoku_dir, steps=4, eval__every=9, checkpoint_every=9)
  runs.run_here(cfg, tmp_path / "run")
  metric_count = reads[reads.index("update 4") + 2]
  assert metric_count > 3
  # Between two updates: of the one all that it can do without, and its metrics;
  # for the next the tokens and their speed, from eight devices, three numbers
  # and the rewards.
  first = reads.index("update 1")
  between = ["metrics", metric_count, 16, 3, "rewards"]
  assert reads[first : reads.index("update 4") + 1] == [
    "update 1", *between, "update 2", *between, "update 3", *between,
    "update 4"]
  assert not hidden


@pytest.mark.slow
def test_a_run_whose_gradients_stay_non_finite_stops_and_names_the_step(
    sudoku_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(
    "dlrl.losses.OBJECTIVES", {"bgpo": lambda: losses.Separable(
      lambda draw, rows: (draw.score(draw.logps) * np.nan, {}),
      takes_norm=True)})
  with pytest.raises(RuntimeError, match=r"step 2: .*last 2 updates"):
    runs.run_here(runs.tiny(sudoku_dir, max_nonfinite=2), tmp_path / "run")
  rows = metrics.rows(tmp_path / "run")
  assert rows[-1]["update/nonfinite_total"] == 2


def test_the_reference_is_the_base_where_that_is_what_rl_starts_from():
  def first(sft_steps, kl_coef=0.5, **changes):
    cfg = runs.tiny("", learn__loss="diffu_grpo", learn__score_norm="none",
               learn__loss_args={"kl_coef": kl_coef}, sft__steps=sft_steps,
               **changes)
    return train_state.reference(cfg, "trained")

  assert first(0) == first(9) == "trained"
  assert first(0, lora__rank=2) == {}
  assert first(9, lora__rank=2) == "trained"  # and no longer fresh
  assert first(9, lora__rank=2, init_from="run") == {}
  assert first(0, 0.0) is first(0, 0.0, lora__rank=2) is None
