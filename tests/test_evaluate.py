import dataclasses
import importlib
import json
import shutil
import sys

import jax
import pytest

from dlrl import config
from dlrl import evaluate
from dlrl import strict
from dlrl import tasks
from dlrl import validate
from dlrl.evaluation import completions
from dlrl.evaluation import completions_log
from dlrl.evaluation import table as table_lib
from dlrl.models import char_tokenizer
from dlrl.run import setup as setup_lib
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import scorers


def configured(data_dir, **evaluation):
  values = config.default()
  values.model.layers = 1
  values.mesh.data, values.mesh.fsdp = 4, 2
  values.task.data_dir = data_dir
  values.learn.micro_batch = values.sft.batch_size = 8
  values.rollout.prompts = 8
  values.eval.batch_size = 8
  values.eval.sampler.temperature = 1.0
  values.evaluation.update(
    {"size": 6, "lengths": (16, 32), "samples": 2} | evaluation)
  return values


@pytest.fixture(scope="module")
def setup(sudoku_dir):
  return setup_lib.make(evaluate.prepare(
    configured(sudoku_dir), model="", protocol=""))


def run(setup, out):
  with jax.set_mesh(setup.mesh):
    text = evaluate.evaluate(setup, setup.init_params(), {"step": 0}, out)
  lines = (out / "completions.jsonl").read_text().splitlines()
  return text, [json.loads(line) for line in lines]


def by_place(records):
  return {(r["length"], r["sample"], r["item"]): r for r in records}


@pytest.fixture(scope="module")
def evaluated(setup, tmp_path_factory):
  out = tmp_path_factory.mktemp("evaluation")
  return out, *run(setup, out)


def test_every_completion_is_there_with_its_scores_and_steps(setup, evaluated):
  _, _, records = evaluated
  assert sorted(by_place(records)) == [
    (length, sample, item) for length in (16, 32) for sample in range(2)
    for item in range(6)]
  rows = {row["index"]: row for row in setup.task.load(
    setup.cfg.task.data_dir, "test", setup.cfg.eval.difficulty)}
  for record in records:
    row = rows[record["index"]]
    assert record["prompt"] == setup.prompt.question(row)
    again = tasks.TASKS["sudoku"].metrics(
      [record["prompt"]], [record["completion"]], **tasks.columns([row]))
    assert record["scores"] == {k: v[0] for k, v in again.items()}
    # Half as many steps as tokens: two tokens in each.
    assert sorted(record["commit_steps"]) == [
      i // 2 for i in range(record["length"])]


def test_the_table_is_of_the_completions_and_names_their_settings(
    setup, evaluated):
  out, text, records = evaluated
  saved = json.loads((out / "results.json").read_text())
  assert saved["scores"] == json.loads(json.dumps(
    [s._asdict() for s in table_lib.summarize(records)]))
  assert saved["settings"]["checksum"] == setup.task.checksum
  assert text == (out / "results.md").read_text()
  assert f"version {setup.task.version}" in text
  assert "* prompt: bare" in text


def test_samples_of_an_item_differ(evaluated):
  found = by_place(evaluated[2])
  first, second = ([found[16, sample, item]["completion"] for item in range(6)]
                   for sample in range(2))
  assert first != second


def test_killed_it_goes_on_and_ends_with_the_same(
    setup, evaluated, tmp_path, monkeypatch):
  out, _, records = evaluated
  lines = (out / "completions.jsonl").read_text().splitlines(keepends=True)
  (tmp_path / "settings.json").write_text((out / "settings.json").read_text())
  (tmp_path / "completions.jsonl").write_text(
    "".join(lines[:9]) + lines[9][:30])
  decoded = []
  read = completions._read
  monkeypatch.setattr(completions, "_read", lambda places, out: (
    decoded.extend(places), read(places, out))[1])
  _, again = run(setup, tmp_path)
  assert len(decoded) == len(records) - 9
  assert by_place(again) == by_place(records)


def test_a_completion_does_not_depend_on_its_batch(setup, evaluated, tmp_path):
  cfg = dataclasses.replace(setup.cfg, eval=dataclasses.replace(
    setup.cfg.eval, batch_size=16))
  _, again = run(dataclasses.replace(setup, cfg=cfg), tmp_path)
  assert by_place(again) == by_place(evaluated[2])


class AnswersAfterItsEnd(char_tokenizer.CharTokenizer):
  def decode(self, ids):
    return char_tokenizer.CharTokenizer().decode(ids)

  def decode_all(self, ids):
    return f"{super().decode_all(ids)}<answer>{'1234' * 4}</answer>"


def test_a_published_scorer_reads_past_the_end_and_counts_cells_together(
    setup, tmp_path):
  task = scorers.SCORERS["legacy_d1"]("sudoku", setup.task)
  how = dataclasses.replace(
    setup.cfg.evaluation, scorer="legacy_d1", lengths=(32,))
  cfg = dataclasses.replace(setup.cfg, evaluation=how)
  _, records = run(dataclasses.replace(
    setup, cfg=cfg, task=task, tokenizer=AnswersAfterItsEnd()), tmp_path)
  rows = {row["index"]: row for row in setup.task.load(
    cfg.task.data_dir, "test", cfg.eval.difficulty)}
  points = blanks = 0
  for record in records:
    assert record["generation"].startswith(record["completion"])
    row = rows[record["index"]]
    hit, of = d1.sudoku(
      row["puzzle"], record["generation"], row["solution"])
    points, blanks = points + hit, blanks + of
    assert record["out_of"] == {"legacy_d1": row["puzzle"].count("0")}
  assert points > 0
  table = json.loads((tmp_path / "results.json").read_text())["scores"]
  (score,) = [s for s in table if s["metric"] == "legacy_d1"]
  assert score["mean"] == pytest.approx(points / blanks)


def test_other_settings_need_another_directory(setup, evaluated):
  with pytest.raises(strict.ConfigError, match=r"parameters\.step"):
    evaluate.evaluate(setup, None, {"step": 1}, evaluated[0])


def changed(setup, section, **values):
  part = dataclasses.replace(getattr(setup.cfg, section), **values)
  return dataclasses.replace(
    setup, cfg=dataclasses.replace(setup.cfg, **{section: part}))


def refused(setup, out, params):
  before = (out / "completions.jsonl").read_bytes()
  with (jax.set_mesh(setup.mesh),
        pytest.raises(strict.FlagError, match="other settings") as error):
    evaluate.evaluate(setup, params, {"step": 0}, out)
  assert (out / "completions.jsonl").read_bytes() == before
  return str(error.value)


def test_other_parameters_at_the_same_place_are_refused(setup, evaluated):
  params = setup.init_params()
  last = jax.tree.leaves(params)[-1]
  other = jax.tree.map(
    lambda x: x.at[(0,) * x.ndim].add(1e-3) if x is last else x, params)
  message = refused(setup, evaluated[0], other)
  assert "fingerprints.parameters: " in message
  assert message.count("->") == 2  # the heading, and what differs


def test_the_same_prompts_of_another_room_are_the_same(setup, evaluated):
  longer = changed(
    setup, "task", prompt_length=setup.cfg.task.prompt_length + 8)
  assert by_place(run(longer, evaluated[0])[1]) == by_place(evaluated[2])


def test_prompts_that_are_cut_elsewhere_are_refused(setup, tmp_path):
  cut = changed(setup, "task", long_prompts="truncate", prompt_length=10)
  with jax.set_mesh(cut.mesh):
    evaluate.evaluate(cut, cut.init_params(), {"step": 0}, tmp_path)
  shorter = changed(cut, "task", prompt_length=9)
  assert "fingerprints.prompts: " in refused(
    shorter, tmp_path, cut.init_params())


def test_other_arithmetic_is_refused(setup, evaluated):
  other = changed(setup, "model", compute_dtype="bfloat16")
  assert "fingerprints.arithmetic: " in refused(
    other, evaluated[0], setup.init_params())


def test_other_rows_at_the_same_place_are_refused(setup, evaluated):
  def load(*args, **kwargs):
    return [row | {"solution": row["solution"][::-1]}
            for row in setup.task.load(*args, **kwargs)]
  other = dataclasses.replace(
    setup, task=dataclasses.replace(setup.task, load=load))
  assert "fingerprints.examples: " in refused(
    other, evaluated[0], setup.init_params())


@pytest.mark.slow
def test_other_rewards_of_users_files_are_refused(tmp_path, monkeypatch):
  (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
  monkeypatch.syspath_prepend(tmp_path)

  def judged(module, value, out="out"):
    text = f"def judge(prompts, completions, **columns):\n  return {value}\n"
    (tmp_path / f"{module}.py").write_text(text)
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    values = configured("", size=1, lengths=(16,), samples=1)
    values.task.update({
      f"{split}_files": str(tmp_path / "rows.jsonl")
      for split in ("train", "validation", "test")})
    values.task.name = "files"
    values.rollout.rewards = (f"{module}:judge",)
    values.rollout.reward_weights = (1.0,)
    made = setup_lib.make(evaluate.prepare(values, model="", protocol=""))
    with jax.set_mesh(made.mesh):
      evaluate.evaluate(
        made, made.init_params(), {"step": 0}, tmp_path / out)

  judged("judge_a", "[1.0] * len(prompts)")
  judged("judge_a", "[1.0] * len(prompts)")  # continues
  for module, value in (("judge_b", "[1.0] * len(prompts)"),
                        ("judge_a", "[0.0] * len(prompts)")):
    with pytest.raises(strict.FlagError, match=r"fingerprints\.rewards"):
      judged(module, value)


@pytest.mark.parametrize("wrong", [
  {"length": 7}, {"sample": -1}, {"item": 10**6}, {"item": True}, {"task": 1},
  {"answer": 5}, {"scores": 3}, {"scores": {"solved": "1"}}, {"scores": None}])
def test_a_record_that_is_none_of_the_evaluation_is_named(
    wrong, setup, evaluated, tmp_path):
  out, _, records = evaluated
  shutil.copytree(out, tmp_path / "out")
  with open(tmp_path / "out" / "completions.jsonl", "a") as file:
    file.write(json.dumps(records[0] | wrong) + "\n")
  with pytest.raises(strict.FlagError, match=(
      f"completions.jsonl:{len(records) + 1} is not a completion")):
    run(setup, tmp_path / "out")


def test_two_evaluations_at_a_time_are_refused(setup, evaluated):
  settings = json.loads((evaluated[0] / "settings.json").read_text())
  with (completions_log.CompletionsLog(evaluated[0], settings),
        pytest.raises(strict.FlagError, match="another evaluation")):
    evaluate.evaluate(setup, setup.init_params(), {"step": 0}, evaluated[0])


def test_several_greedy_samples_are_refused(sudoku_dir):
  values = configured(sudoku_dir)
  values.eval.sampler.temperature = 0.0
  with pytest.raises(strict.ConfigError, match=r"evaluation\.samples = 2"):
    evaluate.prepare(values, model="", protocol="")


def test_steps_grow_with_the_length_or_are_as_said():
  cfg = validate.from_dict(config.default())
  assert cfg.eval.sampler.steps / cfg.eval.sampler.gen_length == 0.5
  assert completions.sampler(cfg, 64).steps == 32
  whole = dataclasses.replace(
    cfg, evaluation=config.EvaluationConfig(tokens_per_step=1))
  assert completions.sampler(whole, 64).steps == 64
