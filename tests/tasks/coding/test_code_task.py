"""A code task from prompt to update, with programs in the real sandbox."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import runs

from dlrl import strict
from dlrl import train
from dlrl.models import char_tokenizer
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.tasks.coding import results as code_results

ROWS = [{"text": f"Add {i}.", "signature": "def add(n):", "prefix": "",
         "tests": [f"assert add(1) == {i + 1}", f"assert add(0) == {i}"],
         "setup": "", "entry_point": "add", "solution": "", "difficulty": 1,
         "index": i} for i in range(16)]
BLOCK = "Here it is:\n```python\ndef add(n):\n{}\n```"
# Completions that a policy might write, with rewards for tests and format.
SAID = (
  ("  return n + {i}", (1.0, 1.0)),
  ("  return {i}", (0.5, 1.0)),  # right only for 0
  ("  import os; os._exit(0)", (0.0, 1.0)),
  ("  return", (0.0, 1.0)),
  (None, (0.0, 0.0)),
)


class Programs(char_tokenizer.CharTokenizer):
  """Reads any prompt, and decodes any completion to a number for `said`."""

  def encode(self, text):
    return super().encode("".join(c for c in text if c in self.alphabet))

  def decode(self, ids):
    return f"#{int(np.sum(ids))}"


def said(number, row):
  which = number % len(SAID)
  text, reward = SAID[which]
  if text is None:
    return "I do not know.", reward
  return BLOCK.format(text.format(i=row["index"])), reward


@pytest.fixture
def setup(sudoku_dir):
  cfg = runs.tiny(
    sudoku_dir, steps=2, task__name="mbpp", sft__steps=0,
    eval__size=4, eval__batch_size=16, sft__difficulty=(1, 1),
    rollout__difficulty=(1, 1), eval__difficulty=(1, 1), eval__every=2,
    rollout__rewards=("tests", "format"), rollout__reward_weights=(1.0, 0.5))
  setup = setup_lib.make(cfg)
  task = dataclasses.replace(setup.task, load=lambda *_, **__: ROWS)
  setup = dataclasses.replace(setup, task=task, tokenizer=Programs())
  try:
    setup.start_graders()
  except strict.ConfigError as error:
    pytest.skip(f"not on this machine: {error}")
  yield setup
  code_results.close()


@pytest.mark.slow
def test_programs_are_run_and_their_rewards_learned_from(
    setup, tmp_path, monkeypatch):
  """Rewards belong to what was said, and the policy learns from them."""
  read, graded = grading.read, grading.rewards
  wanted, found = [], []

  def programs(setup, rows, ids, speed):
    done = read(setup, rows, ids, speed)
    copies = len(ids) // len(rows)
    pairs = [said(int(text[1:]), rows[k // copies])
             for k, text in enumerate(done.texts)]
    wanted.append([tests + 0.5 * form for _, (tests, form) in pairs])
    return dataclasses.replace(done, texts=[text for text, _ in pairs])

  def rewards(setup, done, share):
    reward, row = graded(setup, done, share)
    found.append(reward.total.tolist())
    assert wanted[-1] == found[-1]
    assert row["reward/infrastructure_errors"] == 0
    return reward, row

  monkeypatch.setattr(grading, "read", programs)
  monkeypatch.setattr(grading, "rewards", rewards)
  with jax.set_mesh(setup.mesh):
    train.train(setup, tmp_path)
  assert len(found) == 2
  # Every reward occurred, or the test would prove little.
  assert set(itertools.chain(*found)) == {1.5, 1.0, 0.5, 0.0}
  rows = [row for row in runs.timeless(tmp_path) if "reward/tests" in row]
  for row, rewards in zip(rows, found, strict=True):
    assert row["rollout/tests"] == pytest.approx(row["reward/tests"])
    assert row["reward/mean"] == pytest.approx(np.mean(rewards))
    assert row["rollout/solved"] == np.mean([r == 1.5 for r in rewards])
    assert row["update/grad_norm"] > 0
