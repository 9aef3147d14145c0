"""The pages on users' own code, followed to the letter.

Their files are written as the pages say, and their commands are read and
checked as `dlrl train` does. `-m docs_long` runs the commands themselves.
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
import runs
from absl import flags

from configs import bgpo
from dlrl import commands
from dlrl import scoring
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl import validate
from dlrl.run import command

PAGES = ("docs/own_loss.md", "docs/own_forward_process.md", "docs/own_task.md")
COMMANDS = [(block, words) for block in pages.blocks("sh")
            for words in pages.commands(block) if block.page in PAGES
            and words[:2] == ["dlrl", "train"]]


def write_files(page, folder):
  """Writes the blocks of a page into the files that its text names.

  A block belongs to the files named since the one before, or, if none is, to
  nothing; a file that is named again goes on.
  """
  text = (runs.ROOT / page).read_text()
  end = 0
  for match in pages.BLOCK.finditer(text):
    names = re.findall(r"`(\w+\.(?:py|jsonl))`", text[end:match.start()])
    end = match.end()
    if match["language"] == "python":
      for name in [name for name in names if name.endswith(".py")][-1:]:
        with (folder / name).open("a") as f:
          f.write(match["text"] + "\n\n")
    elif match["language"] == "json":
      for name in names:
        (folder / name).write_text(match["text"] * 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("own")
  for page in PAGES:
    write_files(page, path)
  for file in path.glob("*.py"):
    sys.modules.pop(file.stem, None)  # of another test
  return path


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(folder)
  with jax.numpy_rank_promotion("allow"):  # as with most users
    yield


def settings(words):
  """The settings of a `dlrl train` command."""
  values = flags.FlagValues()
  commands.define("train", values)
  argv = command.with_path(words[1:])
  sys_argv, sys.argv = sys.argv, argv
  try:
    values(argv)
    return values.config
  finally:
    sys.argv = sys_argv


def test_the_pages_name_their_files(folder):
  assert sorted(path.name for path in folder.iterdir()) == [
    "my_losses.py", "my_processes.py", "my_rewards.py", "my_tasks.py",
    "test.jsonl", "train.jsonl", "val.jsonl"]


@pytest.mark.parametrize(
  ("block", "words"), COMMANDS, ids=[str(block) for block, _ in COMMANDS])
def test_a_command_of_the_pages_is_accepted(block, words):
  cfg = validate.from_dict(settings(words))
  assert {
    "docs/own_loss.md": cfg.learn.loss,
    "docs/own_forward_process.md": cfg.sft.forward_process,
    "docs/own_task.md": cfg.task.name + cfg.rollout.rewards[0],
  }[block.page].count(":") == 1
  task = tasks.find(cfg.task, cfg.rollout.rewards)
  for split in tasks.SPLITS:
    assert len(task.load(cfg.task.data_dir, split, cfg.sft.difficulty,
                         field="")) > 8 or cfg.task.name == "sudoku"


def test_without_its_file_a_command_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "path", [
    path for path in sys.path if not path.startswith(str(tmp_path.parent))])
  for name in ("my_losses", "my_processes"):
    monkeypatch.delitem(sys.modules, name, raising=False)
  for block, words in COMMANDS:
    if block.page != "docs/own_task.md":
      with pytest.raises(strict.ConfigError, match="No module named 'my_"):
        validate.from_dict(settings(words))


def test_the_process_of_the_page_is_unbiased():
  t, n = 5, 4000
  maskable = jnp.array([[True, True, False, True, True]])
  draw = scoring.process(
    "my_processes:powers", jnp.array([0]), 0)
  mask, weight = jax.vmap(lambda j: draw(
    jax.random.split(jax.random.key(0), 1), maskable, j, n, power=1.5))(
      jnp.arange(n))
  mask, weight = np.asarray(mask[:, 0]), np.asarray(weight[:, 0])
  assert not mask[:, 2].any()
  k = mask.sum(1)
  chance = np.array([i**-1.5 for i in range(1, 5)])
  chance /= chance.sum()
  np.testing.assert_allclose(
    np.bincount(k, minlength=t)[1:] / n, chance, atol=0.03)
  np.testing.assert_allclose(
    weight.max(1), 1 / (k * chance[k - 1]), rtol=1e-5)
  # Of log-probs that are all 1 every process estimates the number of tokens.
  assert abs(weight.sum(1).mean() - 4) < 0.3


def test_the_task_of_the_page_has_splits_that_share_nothing():
  task = tasks.find(validate.from_dict(settings(next(
    words for _, words in COMMANDS if any("my_tasks" in w for w in words)
  ))).task)
  rows = {split: task.load("", split, (0, 2), field="")
          for split in tasks.SPLITS}
  sums = [row["sum"] for split in rows.values() for row in split]
  assert len(sums) == len(set(sums)) == 10_000
  for row in rows["test"][::97]:
    a, b = map(int, row["sum"][:-1].split("+"))
    assert row["solution"] == str(a + b)
    assert row["difficulty"] == (a % 10 + b % 10 > 9) + (a + b > 99)
    assert task.metrics([""] * 2, [str(a + b), "x"],
                        solution=[row["solution"]] * 2) == {"solved": [1, 0]}


@pytest.mark.slow
def test_a_run_with_loss_process_and_task_of_the_pages_learns(
    tmp_path, unoptimized, monkeypatch):
  # The page's own reward is zero for a model that has learned nothing.
  (tmp_path / "varied.py").write_text(
    "def letters(prompts, completions, **columns):\n"
    "  return [len(set(text)) for text in completions]\n")
  monkeypatch.syspath_prepend(tmp_path)
  cfg = bgpo.get_config("smoke")
  cfg.update_from_flattened_dict(runs.TINY | {
    "steps": 2, "sft.steps": 2, "checkpoint_every": 2, "sft.batch_size": 8,
    "mesh.cpu_devices": 0, "learn.negative_weight": 1.0,
    "task.name": "my_tasks:SUMS", "rollout.rewards": ("varied:letters",),
    "sft.difficulty": (0, 0), "rollout.difficulty": (0, 2),
    "eval.difficulty": (0, 2), "learn.loss": "my_losses:floored_objective",
    "sft.forward_process": "my_processes:powers",
    "learn.forward_process": "my_processes:powers"})
  cfg = validate.from_dict(cfg)
  assert update.objective(cfg.learn).takes_norm
  _, rows = runs.run_here(cfg, tmp_path / "run")
  assert rows[-1]["step"] == 2
  assert rows[-1]["update/grad_norm"] > 0
  assert 0 <= rows[-1]["update/floored"] <= 1  # the metric of the page's loss
