"""Runs on users' own files with their own rewards."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import many_rewards
import pytest
import runs
import terminals

from dlrl import evaluate
from dlrl import main
from dlrl import sft
from dlrl import strict
from dlrl.evaluation import held_out
from dlrl.run import going_on
from dlrl.run import session
from dlrl.run import setup as setup_lib
from dlrl.run import summary as summary_lib
from dlrl.runtime import goodput
from dlrl.storage import metrics
from dlrl.storage import workdir

ROWS = [{"prompt": f"{a}+{b}=", "solution": str(a + b)}
        for a in range(4) for b in range(3)]


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def configured(tmp_path, reward, rows=ROWS, **changes):
  path = write(tmp_path / "rows.jsonl", rows)
  return runs.tiny("", **{
    "task__name": "files", "task__train_files": path, "sft__steps": 0,
    "task__validation_files": path, "task__test_files": path,
    "sft__difficulty": (0, 9), "rollout__difficulty": (0, 9),
    "eval__difficulty": (0, 9), "eval__size": 4, "steps": 2,
    "rollout__rewards": (f"many_rewards:{reward}",), **changes})


def summarized(cfg, root):
  root.mkdir()
  goodput.start(root)
  seconds, rows = runs.run_here(cfg, root)
  summary = summary_lib.write(cfg, root, seconds)
  return rows, summary, summary_lib.table(summary)


def started(cfg, tmp_path, reward):
  """The same as users start it, with another reward, in `tmp_path`/run."""
  flags = {f"task.{split}_files": getattr(cfg.task, f"{split}_files")
           for split in ("train", "validation", "test")} | {
    "task.name": "files", "task.prompt_length": 16, "sft.steps": 0,
    "rollout.rewards": f'("many_rewards:{reward}",)', "eval.size": 4,
    "model.width": 16, "model.layers": 1, "eval.batch_size": 16}
  return subprocess.run(
    [sys.executable, "-m", "dlrl.main", "--config=configs/bgpo.py:smoke",
     f"--workdir={tmp_path / 'run'}", *(
      f"--config.{name}={value}" for name, value in flags.items())],
    env=os.environ | {"PYTHONPATH": ":".join(
      f"{runs.ROOT}/{part}" for part in ("", "tests", "tests/support"))},
    cwd=runs.ROOT, text=True, capture_output=True)


@pytest.mark.slow
def test_unknown_rewards_are_left_out_and_counted_everywhere(tmp_path):
  rows, summary, table = summarized(
    configured(tmp_path, "ones", eval__size=12), tmp_path / "run")
  for row in rows:
    if "eval/items" in row:
      # A quarter of the prompts begins with 1.
      assert (row["eval/items"], row["eval/infrastructure_errors"]) == (12, 3)
      assert row["eval/ones_low"] <= row["eval/ones"] <= row["eval/ones_high"]
  assert summary["n_eval"] == 12
  assert summary["before"]["infrastructure_errors"] == 3
  assert "items lost" in table


@pytest.mark.slow
def test_a_reward_is_called_once_for_each_completion(tmp_path):
  del many_rewards.CALLS[:]
  rows, *_ = summarized(
    configured(tmp_path, "judge", eval__every=9), tmp_path / "run")
  # Validation and test before, two steps of 4 groups of 4, both again.
  assert many_rewards.CALLS == [4, 4, 16, 16, 4, 4]
  for row in rows[1:]:
    assert row["rollout/judge"] == pytest.approx(row["reward/judge"])


@pytest.mark.slow
@pytest.mark.parametrize(("reward", "mean"), [("length", None), ("minus", -1)])
def test_rewards_of_any_size_have_intervals_around_their_mean_and_no_percent(
    reward, mean, tmp_path):
  cfg = configured(tmp_path, reward)
  rows, summary, table = summarized(cfg, tmp_path / "run")
  for row in (rows[0], rows[-1]):
    for part in ("eval", "test"):
      low, value, high = (row[f"{part}/{reward}{end}"]
                          for end in ("_low", "", "_high"))
      assert low <= value <= high
      assert value >= 10 if mean is None else value == mean
  assert summary["unbounded"] == [reward]
  line, = (one for one in table.splitlines() if one.startswith(reward))
  assert "%" not in line
  assert "%" in next(x for x in table.splitlines() if x.startswith("solved"))
  setup = setup_lib.make(cfg)
  with jax.set_mesh(setup.mesh):
    text = evaluate.evaluate(
      setup, setup.init_params(), {"step": 0}, tmp_path / "out")
  line, = (one for one in text.splitlines() if f"| 16 | {reward} |" in one)
  assert "%" not in line
  scores = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
  found, = (one for one in scores if one["metric"] == reward)
  assert found["low"] <= found["mean"] <= found["high"]


@pytest.mark.slow
def test_a_run_of_which_nothing_is_known_goes_on_and_says_so(
    tmp_path, capsys):
  rows, summary, table = summarized(
    configured(tmp_path, "lost"), tmp_path / "run")
  assert [row["step"] for row in rows] == [0, 1, 2]
  for row in rows:
    assert not {k for k in row if k.endswith(("/solved", "/lost", "_low"))} - {
      "reward/lost"}
  assert summary["before"] == {"items": 4, "infrastructure_errors": 4}
  assert "solved                     not known               not known" in table
  said = capsys.readouterr().out
  assert "no gradient: no reward is known  reward not known" in said
  assert "solved not known" in said and "held-out not known" in said
  assert {sample["reward"] for sample in metrics.samples(
    tmp_path / "run")} == {None}
  assert "\n unknown  " in said


@pytest.mark.slow
@pytest.mark.parametrize("when", [0, 2])
def test_an_evaluation_of_which_nothing_is_known_is_not_another_ones(
    when, tmp_path, monkeypatch):
  real = held_out.make

  def make(setup):
    evaluator, calls = real(setup), []

    def evaluate(params, *, ends):
      row = evaluator(params, ends=ends)
      calls.append(ends)
      if ends and (len(calls) == 1) == (when == 0):
        return {k: v for k, v in row.items() if not k.startswith("test/")} | {
          "test/items": 4, "test/infrastructure_errors": 4}
      return row

    return evaluate

  monkeypatch.setattr(held_out, "make", make)
  _, summary, table = summarized(
    configured(tmp_path, "length"), tmp_path / "run")
  lines = {line.split()[0]: line.split(maxsplit=1)[1]
           for line in table.splitlines() if line.startswith(("len", "solved"))}
  absent, there = ("before", "after") if when == 0 else ("after", "before")
  assert "length" not in summary[absent]
  assert summary[there]["length"] >= 10
  for line in lines.values():
    assert line.startswith("not known") == (when == 0)
    assert line.endswith("not known") == (when == 2)
    assert line.count("not known") == 1


@pytest.mark.slow
def test_fewer_rows_than_eval_size_are_all_evaluated(tmp_path, capsys):
  rows, summary, table = summarized(
    configured(tmp_path, "length", ROWS[:2], eval__size=512,
               eval__batch_size=16), tmp_path / "run")
  assert rows[0]["eval/items"] == rows[-1]["test/items"] == 2
  assert summary["n_eval"] == 2
  assert table.startswith("2 held-out items")
  said = terminals.unbroken(capsys.readouterr().out)
  for split in ("validation", "test"):
    assert (f"{split} has 2 examples, of which 2 are evaluated instead of "
            "eval.size = 512") in said


ANY_TEXT = [{"prompt": "¿Cuánto es uno más dos?", "solution": "tres"},
            {"prompt": "七減三?", "solution": "四"},
            {"prompt": "2 + 2?", "solution": "\x1b[2J"}]


@pytest.mark.slow
def test_any_text_is_learned_and_a_run_needs_no_test_files(tmp_path, capsys):
  cfg = configured(
    tmp_path, "length", ANY_TEXT, model__vocab_size=259, sft__steps=2,
    task__test_files="", eval__size=512, eval__batch_size=512, sample_every=1)
  rows, summary, table = summarized(cfg, tmp_path / "run")
  for row in (rows[0], rows[-1]):
    assert row["eval/items"] == 3
    assert not [key for key in row if key.startswith("test/")]
  assert summary["before"]["length"] == rows[0]["eval/length"]
  assert summary["after"]["length"] == rows[-1]["eval/length"]
  assert (summary["split"], summary["n_eval"]) == ("validation", 3)
  assert "\nvalidation items of files" in table
  samples = metrics.samples(tmp_path / "run")
  assert [sample["step"] for sample in samples] == [1, 1, 1, 1, 2, 2, 2, 2]
  asked = {row["prompt"] for row in ANY_TEXT}
  assert {sample["prompt"] for sample in samples} <= asked
  said = capsys.readouterr().out
  for sample in samples:
    assert f"\n  prompt  {sample['prompt']}\n" in said
  assert not {c for c in said if ord(c) < 32} - {"\n"}


@pytest.mark.slow
def test_a_summary_without_a_split_is_of_test_items(tmp_path):
  _, summary, table = summarized(
    configured(tmp_path, "length"), tmp_path / "run")
  assert summary.pop("split") == "test"
  assert summary_lib.table(summary) == table  # as older versions wrote it
  assert "\ntest items of files" in table


def test_a_prompt_is_as_long_as_its_bytes(tmp_path):
  rows = [{"prompt": "七" * 11, "solution": "四"}]
  cfg = functools.partial(
    configured, tmp_path, "length", rows, model__vocab_size=259,
    task__test_files="", sft__steps=1)
  checked(cfg(task__prompt_length=33))
  with pytest.raises(strict.ConfigError, match="has 33 tokens, the limit is"):
    checked(cfg(task__prompt_length=32))
  checked(cfg(task__prompt_length=32, task__long_prompts="truncate"))


def checked(cfg):
  setup = setup_lib.make(cfg)
  for check in main.CHECKS[cfg.job]:
    check(setup)


@pytest.mark.parametrize(("row", "changes", "problem"), [
  ({"prompt": "1+" * 12 + "1="}, {}, "the prompt '1\\+1.*' has 26 tokens, the "
   "limit is 16; raise it in a new --workdir, or set task.long_prompts to "
   "'truncate' in any"),
  ({"prompt": "1+?="}, {}, "the tokenizer cannot read the prompt '1\\+\\?='"),
  ({"prompt": "1+1=", "solution": None}, {"sft__steps": 1},
   "need a string in the column `solution`"),
  ({"prompt": "1+1=", "solution": "2" * 17}, {"sft__steps": 1},
   "the answer '2+' has 17 tokens, the limit is 16"),
  ({"prompt": "1+1=", "solution": "two"}, {"job": "sft", "sft__steps": 1},
   "the tokenizer cannot read the answer 'two'")])
def test_a_row_that_cannot_be_used_is_found_with_its_line(
    row, changes, problem, tmp_path):
  rows = ROWS * 3
  checked(configured(
    tmp_path, "length", rows, task__prompt_length=16, **changes))
  cfg = configured(tmp_path, "length", [*rows[:18], row, *rows[18:]],
                   task__prompt_length=16, **changes)
  with pytest.raises(strict.ConfigError, match=problem) as error:
    checked(cfg)
  assert str(error.value).startswith(f"{tmp_path}/rows.jsonl:19: ")


def test_a_reward_that_lacks_a_column_is_found_before_anything_begins(tmp_path):
  with pytest.raises(strict.ConfigError, match="'gold': cannot.*'answer'.*"
                     r"\['difficulty', 'index', 'prompt', 'solution'\]"):
    checked(configured(tmp_path, "gold"))
  # Train has it, the split of the evaluations between steps has not.
  rows = [row | {"answer": ""} for row in ROWS]
  checked(configured(tmp_path, "gold", rows))
  less = write(tmp_path / "less.jsonl", ROWS)
  with pytest.raises(strict.ConfigError, match=r"'gold': cannot.*'answer'"):
    checked(configured(tmp_path, "gold", rows, task__validation_files=less))


@pytest.mark.slow
def test_a_reward_that_fails_ends_the_run_with_a_line_that_names_it(tmp_path):
  cfg = configured(tmp_path, "length")
  done = started(cfg, tmp_path, "broken")
  assert done.returncode == 1, done.stderr
  assert "    raise KeyError" in done.stderr  # where it is in the function
  last = done.stderr.splitlines()[-1]
  assert last.startswith("the reward 'broken' raised KeyError(\"'x'\") for "
                         "completions of rows ")
  assert last.endswith("The columns are ['difficulty', 'index', 'prompt', "
                       "'solution'] (config.rollout.rewards)")
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_start_with_a_bad_row_begins_nothing(tmp_path):
  rows = [*ROWS, {"prompt": "1+" * 12 + "1=", "solution": "13"}]
  cfg = configured(tmp_path, "length", rows, task__prompt_length=16)
  done = started(cfg, tmp_path, "length")
  assert done.returncode == 2, done.stderr
  assert done.stderr.splitlines()[-1].startswith(
    f"dlrl: {tmp_path}/rows.jsonl:13: the prompt ")
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "run").exists()
  # So that what the message advises can be done in the same workdir.
  claim = functools.partial(
    workdir.claim, tmp_path / "run", free=going_on.free(cfg))
  claim(strict.to_json(cfg)).close()
  (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
  cut = dataclasses.replace(cfg.task, long_prompts="truncate")
  claim(strict.to_json(dataclasses.replace(cfg, task=cut))).close()


@pytest.mark.slow
def test_a_run_does_not_continue_on_other_data(tmp_path):
  cfg = configured(tmp_path, "length", checkpoint_every=1)
  runs.run_here(cfg, tmp_path / "run")
  longer = dataclasses.replace(cfg, steps=3)
  write(tmp_path / "rows.jsonl", ROWS[7:])
  with pytest.raises(strict.ConfigError, match="not those that the run"):
    runs.run_here(longer, tmp_path / "run")
  write(tmp_path / "rows.jsonl", ROWS)
  _, rows = runs.run_here(longer, tmp_path / "run")
  assert rows[-1]["step"] == 3
  session.Data("files", "1").check(None)  # a checkpoint of an older version


@pytest.mark.slow
def test_a_warm_start_does_not_continue_on_other_data(tmp_path):
  def warm_start():
    setup = setup_lib.make(cfg)
    with jax.set_mesh(setup.mesh):
      sft.warm_start(setup, tmp_path, setup.load_base())

  cfg = configured(tmp_path, "length", sft__steps=1)
  warm_start()
  warm_start()
  write(tmp_path / "rows.jsonl", ROWS[:-1])
  with pytest.raises(strict.ConfigError, match="not those that the run"):
    warm_start()
