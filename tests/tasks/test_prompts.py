"""How examples are asked, with and without worked examples."""

import fnmatch
import tomllib

import pytest
import runs

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.models import hf_tokenizer
from dlrl.tasks import prompts

ROW = {"puzzle": "1034041221430021", "solution": "1234341221434321",
       "numbers": [30, 100, 93], "target": 23, "difficulty": 9, "index": 0}
ROWS = [{"asked": str(i), "solution": str(-i)} for i in range(10)]
TEXT = tasks.Prompt(lambda row: row["asked"], between="=", after=";")
CHAT = tasks.Prompt(lambda row: [
  {"role": "system", "content": "be brief"},
  {"role": "user", "content": row["asked"]}])


PUZZLES = [name for name in sorted(tasks.TASKS)
           if name.startswith(("sudoku", "countdown"))]


@pytest.mark.parametrize("task", PUZZLES)
def test_every_prompt_asks_for_the_answer_it_would_reward(task):
  found = tasks.TASKS[task]
  assert {"bare", "dlrl"} <= found.prompts.keys()
  if task != "sudoku9":
    assert {"d1", "spg", "espo"} <= found.prompts.keys()
  asked = [prompts.as_text(prompt.question(ROW))
           for prompt in found.prompts.values()]
  for name, text in zip(found.prompts, asked, strict=True):
    if task.startswith("sudoku"):
      assert ROW["puzzle"] in text
    elif name != "bare":
      assert "[30, 100, 93]" in text
      assert "23" in text
    if name != "bare":
      assert "<answer>" in text
      assert "{" not in text.replace("boxed{", "")
  for prompt in found.prompts.values():
    row = ROW if task.startswith("sudoku") else ROW | {"solution": "30-100+93"}
    assert found.rewards["solved"](
      ["?"], [prompt.answer(row)], **tasks.columns([row])) == [1.0]


def test_bare_prompts_are_those_of_the_published_runs():
  ask = {name: tasks.TASKS[name].prompts["bare"].question(ROW | {"target": 7})
         for name in PUZZLES}
  assert ask["sudoku"] == "abcdefghijklmnop1034041221430021"
  assert ask["countdown"] == "30,100,93=7"
  assert ask["countdown_digits"] == "30,100,93=07"


def test_worked_examples_stand_before_the_question_and_never_answer_it():
  asked = prompts.with_examples(TEXT, ROWS, 2).question
  text = asked({"asked": "x", "solution": "y"})
  first, second, last = text.split(";")
  assert last == "x"
  shown = [example.split("=") for example in (first, second)]
  assert all(answer == str(-int(question)) for question, answer in shown)
  # The same for all, and the next one where an example is asked for itself.
  assert asked({"asked": "z", "solution": ""}) == f"{first};{second};z"
  own = next(row for row in ROWS if row["asked"] == shown[0][0])
  third = asked(own).split(";")
  assert third[0] == second
  assert third[1] not in (first, second)
  assert third[2] == shown[0][0]


def test_worked_examples_of_messages_are_turns_after_one_system_message():
  turns = prompts.with_examples(CHAT, ROWS, 2).question(
    {"asked": "x", "solution": "y"})
  assert [m["role"] for m in turns] == [
    "system", "user", "assistant", "user", "assistant", "user"]
  assert turns[2]["content"] == str(-int(turns[1]["content"]))
  assert turns[-1]["content"] == "x"
  assert prompts.as_text(turns).endswith("\nx")


def test_a_worked_example_goes_on_where_its_answer_was_begun():
  begun = tasks.Prompt(
    lambda row: [{"role": "user", "content": row["asked"]},
                 {"role": "assistant", "content": "So"}],
    lambda row: f" {row['solution']}")
  turns = prompts.with_examples(begun, ROWS, 1).question({"asked": "x"})
  assert [m["role"] for m in turns] == ["user", "assistant"] * 2
  assert turns[1]["content"] == f"So -{turns[0]['content']}"
  assert turns[3]["content"] == "So"


@pytest.mark.parametrize("name", ["sudoku", "countdown_digits"])
def test_worked_examples_come_from_train_and_fit_the_characters(
    name, sudoku_dir):
  task = tasks.TASKS[name]
  asked = tasks.prompt(config.TaskConfig(
    name=name, data_dir=sudoku_dir, few_shot=2)).question
  row = task.load(sudoku_dir, "test", task.difficulties)[5]
  text = asked(row)
  char_tokenizer.CharTokenizer().encode(text)
  first, second, last = text.split("|")
  assert last == task.prompts["bare"].question(row)
  train = {task.prompts["bare"].question(row): row["solution"]
           for row in task.load(sudoku_dir, "train", task.difficulties)}
  for example in (first, second):
    question, answer = example.split(" ")
    assert train[question] == answer


def test_examples_of_a_mixture_are_of_the_rows_own_task(sudoku_dir):
  cfg = config.TaskConfig(
    name="sudoku+countdown_digits", data_dir=sudoku_dir, few_shot=1)
  asked = tasks.prompt(cfg).question
  for name in ("sudoku", "countdown_digits"):
    alone = tasks.prompt(config.TaskConfig(
      name=name, data_dir=sudoku_dir, few_shot=1)).question
    assert asked(ROW | {"task": name}) == alone(ROW)


def test_more_examples_than_rows_are_refused(sudoku_dir):
  with pytest.raises(strict.ConfigError, match=r"few_shot.*than the 22000"):
    tasks.prompt(config.TaskConfig(data_dir=sudoku_dir, few_shot=22000))


def test_the_texts_of_prompts_are_installed_with_the_package():
  project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
  patterns = project["tool"]["setuptools"]["package-data"]["*"]
  texts = [path for path in (runs.ROOT / "dlrl").rglob("texts/*")
           if path.is_file()]
  assert len(texts) > 20
  for path in texts:
    assert any(fnmatch.fnmatch(str(path), f"*/{pattern}")
               for pattern in patterns), path


def test_messages_are_tokenized_as_the_models_chat_does(published):
  chat = hf_tokenizer.load(published)
  asked = CHAT.question({"asked": "12"})
  assert chat.prompt(asked) == chat.chat(asked)
  assert chat.prompt("12") == chat.chat([{"role": "user", "content": "12"}])
  with pytest.raises(ValueError, match="no chat format"):
    char_tokenizer.CharTokenizer().prompt(asked)
