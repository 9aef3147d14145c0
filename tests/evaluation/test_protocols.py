import dataclasses

import pytest

from configs import bgpo
from dlrl import config
from dlrl import evaluate
from dlrl import strict
from dlrl import tasks
from dlrl import validate
from dlrl.evaluation import completions
from dlrl.evaluation import protocols
from dlrl.tasks.published_scorers import scorers

CASES = [(name, task) for name, table in protocols.PROTOCOLS.items()
         for task in table]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_protocol_can_be_carried_out(name, task):
  values = config.default()
  values.task.name = task
  values.eval.sampler.temperature, values.task.few_shot = 0.7, 3
  cfg = evaluate.prepare(values, model="", protocol=name)
  protocol = protocols.PROTOCOLS[name][task]
  assert cfg.task.name == protocol.data
  assert cfg.eval.sampler.temperature == 0 and cfg.task.few_shot == 0
  assert cfg.evaluation.split == "test" and cfg.evaluation.size == 0
  scorers.SCORERS[cfg.evaluation.scorer](
    cfg.task.name, tasks.find(cfg.task))
  for length in protocol.lengths:
    sampler = completions.sampler(cfg, length)
    assert (sampler.gen_length, sampler.block_length) == (length, 32)
    assert sampler.steps == length // protocol.tokens_per_step


def test_d1s_decoding_is_half_as_many_steps_as_tokens():
  values = config.default()
  values.task.name = "sudoku"
  cfg = evaluate.prepare(values, model="", protocol="d1")
  assert [(n, completions.sampler(cfg, n).steps)
          for n in completions.lengths(cfg)
          ] == [(128, 64), (256, 128), (512, 256)]
  assert cfg.evaluation.scorer == "legacy_d1"
  assert cfg.eval.sampler.remasking == "low_confidence"


def test_spg_scores_by_its_own_rules():
  values = config.default()
  values.task.name = "gsm8k"
  cfg = evaluate.prepare(values, model="", protocol="spg")
  assert cfg.evaluation.scorer == "legacy_spg"


def test_espo_evaluates_all_of_maths_test():
  values = config.default()
  values.task.name = "math"
  cfg = evaluate.prepare(values, model="", protocol="espo")
  assert cfg.task.name == "math_5000" and cfg.evaluation.size == 0


def test_a_task_that_a_paper_lacks_is_refused():
  values = config.default()
  values.task.name = "mbpp"
  with pytest.raises(strict.ConfigError, match="'countdown', 'gsm8k'"):
    protocols.apply(values, "d1")


def test_a_trial_of_a_few_items_is_the_same_but_for_their_number():
  values = config.default()
  values.task.name, values.evaluation.size = "sudoku", 4
  few = evaluate.prepare(values, model="", protocol="d1")
  assert few.evaluation.size == 4
  values.task.name, values.evaluation.size = "sudoku", 0
  whole = evaluate.prepare(values, model="", protocol="d1")
  assert dataclasses.replace(few, evaluation=whole.evaluation) == whole


def test_settings_of_another_tasks_training_do_not_matter():
  values = bgpo.get_config("smoke")  # puzzles with 3 to 6 and 9 to 12 blanks
  values.task.name, values.rollout.rewards = "gsm8k+math", ("units",)
  with pytest.raises(strict.ConfigError, match=r"eval\.difficulty"):
    evaluate.prepare(values, model="", protocol="")
  values.eval.difficulty = (1, 5)
  evaluate.prepare(values, model="", protocol="")
  values.task.name = "gsm8k"
  assert evaluate.prepare(
    values, model="", protocol="d1").eval.difficulty == (1, 1)


def test_the_data_of_a_protocol_names_its_task():
  values = config.default()
  values.task.name = "sudoku_d1"
  protocols.apply(values, "d1")
  assert validate.from_dict(values).task.name == "sudoku_d1"
