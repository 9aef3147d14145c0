"""Prompts in users' own words, from a file."""

import json
import os
import re

import pytest
import runs

from configs import bgpo
from dlrl import config
from dlrl import evaluate
from dlrl import strict
from dlrl import tasks
from dlrl import validate
from dlrl.strict import nested
from dlrl.tasks import prompts
from dlrl.tasks.user_files import templates

ROWS = {
  "gsm8k": {"question": "Is {numbers} {question} 3?", "answer": "#### 3"},
  "math": {"problem": "Find $x^{2}$.", "answer": "4", "solution": "4"},
  "sudoku": {"puzzle": "1034041221430021", "solution": "1234341221434321"},
  "countdown": {"numbers": (30, 100, 93), "target": 23, "solution": "30-7"},
  "mbpp": {"text": "Add.", "signature": "def add(a, b):", "prefix": "",
           "tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]},
  "humaneval": {"text": "def f():\n", "prefix": "def f():\n", "tests": ["t"]},
}


def asked(tmp_path, text, *, task="gsm8k", name="p.txt", prompt="dlrl"):
  """The prompt of `task`'s example by a file with this content."""
  path = tmp_path / name
  path.write_text(text if isinstance(text, str) else json.dumps(text))
  values = config.default()
  values.task.update(name=task, prompt=prompt, prompt_file=str(path))
  cfg = validate.from_dict(values)
  return tasks.prompt(cfg.task).question(ROWS[task])


@pytest.mark.parametrize(("task", "text", "want"), [
  ("gsm8k", "Q: {question}\nA:", "Q: Is {numbers} {question} 3?\nA:"),
  ("gsm8k", "{question}\n\n", "Is {numbers} {question} 3?\n"),
  ("gsm8k", "{question} as {{question}}, \\boxed{} {...}",
   "Is {numbers} {question} 3? as {question}, \\boxed{} {...}"),
  ("math", "E.g. $\\text{some} \\frac{a}{b} x^{two} {{}}{ }$\n{question}",
   "E.g. $\\text{some} \\frac{a}{b} x^{two} {{}}{ }$\nFind $x^{2}$."),
  ("gsm8k", "{question} {{it}} {{numbers}} {N} {a}",
   "Is {numbers} {question} 3? {{it}} {numbers} {N} {a}"),
  ("math", "\\boxed{question}", "\\boxed" + "Find $x^{2}$."),
  ("sudoku", "S{question}", "S1034041221430021"),
  ("countdown", "Using {numbers}: {target}, {target}",
   "Using [30, 100, 93]: 23, 23"),
  ("mbpp", "{question} {test}", "Add. assert add(1, 2) == 3"),
  ("mbpp", "{question}\n{signature}\n{tests}", "Add.\ndef add(a, b):\n"
   "assert add(1, 2) == 3\nassert add(0, 0) == 0"),
  ("humaneval", "{question}", "def f():\n"),
])
def test_a_file_asks_in_its_own_words(tmp_path, task, text, want):
  assert asked(tmp_path, text, task=task) == want


def test_a_json_file_is_a_conversation(tmp_path):
  assert asked(tmp_path, [
    {"role": "system", "content": "Say {it}.\n"},
    {"role": "user", "content": "{question}\n"},
    {"role": "assistant", "content": "<reasoning>"}], name="p.json") == [
      {"role": "system", "content": "Say {it}.\n"},
      {"role": "user", "content": "Is {numbers} {question} 3?\n"},
      {"role": "assistant", "content": "<reasoning>"}]


@pytest.mark.parametrize(("task", "name", "text", "message"), [
  ("gsm8k", "p.txt", "What?", r"must contain \{question\}; 'gsm8k' asks"),
  ("gsm8k", "p.txt", "", r"must contain \{question\}"),
  ("gsm8k", "p.txt", "{{question}}", r"must contain \{question\}"),
  ("countdown", "p.txt", "{numbers}", r"must contain \{target\}"),
  ("countdown", "p.txt", "of {question}",
   r"contain \{numbers\} and \{target\}"),
  ("gsm8k", "p.txt", "{question} {answer}", "has unknown fields 'answer'; "
   "'gsm8k' has 'question'"),
  ("mbpp", "p.txt", "{question} {solution}", "unknown fields 'solution'"),
  ("humaneval", "p.txt", "{question} {tests}", "unknown fields 'tests'"),
  ("gsm8k", "p.txt", "{question}\r\n", "Windows line ends"),
  ("gsm8k", "p.json", "{question}", "chat messages: Expecting"),
  ("gsm8k", "p.json", {"role": "user"}, "must be a list"),
  ("gsm8k", "p.json", [{"role": "system", "content": "{question}"}],
   "no user message"),
  ("gsm8k", "p.json", [{"role": "user", "content": "?"}],
   r"must contain \{question\}"),
  ("gsm8k", "p.json", [{"role": "human", "content": "?"}], "the role 'human'"),
  ("gsm8k", "p.json", "[" * 100_000, "chat messages: maximum recursion"),
])
def test_a_file_that_does_not_fit_is_refused(
    tmp_path, task, name, text, message):
  with pytest.raises(strict.ConfigError, match=message) as error:
    asked(tmp_path, text, task=task, name=name)
  assert error.value.field == "task.prompt_file"
  assert error.value.value == str(tmp_path / name)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
  (tmp_path / "bytes").write_bytes(b"{question}\xff")
  os.mkfifo(tmp_path / "pipe")
  for name, reason in (("absent", "No such file"), ("bytes", "'utf-8' codec"),
                       (".", "Is a directory"), ("pipe", "not a file"),
                       ("a\0b", "embedded null")):
    with pytest.raises(strict.ConfigError, match=f"UTF-8 text: {reason}"):
      templates.read(str(tmp_path / name))


@pytest.mark.parametrize(("name", "text"), [
  ("p.txt", "{question}\ufeff?"),
  ("p.json", '[{"role": "user", "content": "{question}\ufeff?"}]')])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, text):
  plain = asked(tmp_path, text, name=name)
  assert prompts.as_text(plain) == "Is {numbers} {question} 3?\ufeff?"
  assert asked(tmp_path, "\ufeff" + text, name=name) == plain


def test_users_own_examples_have_their_own_prompt(tmp_path):
  with pytest.raises(strict.ConfigError, match="in its column `prompt`"):
    templates.question("p", "{question}", "files", {}, {})


def test_the_answer_is_still_that_of_the_named_prompt(tmp_path):
  path = tmp_path / "p.txt"
  path.write_text("{question}")
  values = config.default()
  values.task.update(name="sudoku", prompt="dlrl", prompt_file=str(path))
  prompt = tasks.prompt(validate.from_dict(values).task)
  assert prompt.answer(ROWS["sudoku"]) == "<answer>1234341221434321</answer>"


def test_several_tasks_are_asked_by_one_file(tmp_path):
  (tmp_path / "p.txt").write_text("Q: {question}")
  values = config.default()
  values.task.update(name="gsm8k+math", prompt="dlrl",
                     prompt_file=str(tmp_path / "p.txt"))
  prompt = tasks.prompt(validate.from_dict(values).task)
  assert [prompt.question({**ROWS[name], "task": name})
          for name in ("gsm8k", "math")] == [
            "Q: Is {numbers} {question} 3?", "Q: Find $x^{2}$."]


def test_the_config_keeps_the_text_and_notices_a_change(tmp_path):
  path = tmp_path / "p.txt"
  path.write_text("Q: {question}")
  values = config.default()
  values.task.update(name="gsm8k", prompt="dlrl", prompt_file=str(path))
  cfg = validate.from_dict(values)
  saved = strict.to_json(cfg)
  path.write_text("R: {question}")
  again = validate.from_dict(values)
  (line,) = nested.diff(saved, strict.to_json(again))
  assert line == ("config.task.prompt_text: 'Q: {question}' -> 'R: {question}'")
  assert tasks.prompt_version(cfg.task) != tasks.prompt_version(again.task)
  # A run's config keeps the prompt of the run, whatever is in the file now.
  path.unlink()
  values.update(saved)
  assert validate.from_dict(values) == cfg
  values.task.prompt_file = ""
  with pytest.raises(strict.ConfigError, match="name its file"):
    validate.from_dict(values)


def test_an_evaluation_asks_by_the_file_and_says_so(tmp_path):
  path = tmp_path / "d1.txt"
  path.write_text("{question} ")
  values = config.default()
  values.task.update(name="gsm8k", prompt_file=str(tmp_path / "of_the_run.txt"),
                     prompt_text="R {question}")
  cfg = evaluate.prepare(values.copy_and_resolve_references(), model="",
                         protocol="d1")
  assert tasks.prompt_version(cfg.task) == "d1_eval"
  cfg = evaluate.prepare(values, model="", protocol="d1",
                         prompt_file=str(path))
  # printf '{question} ' | sha256sum
  assert tasks.prompt_version(cfg.task) == "d1.txt, SHA-256 " + DIGEST
  assert tasks.prompt(cfg.task).question({"question": "1+1?"}) == "1+1? "


DIGEST = "bfb4a4481dd6390f46c52923ba3bdda1b602ef4b357f6924a699319accf3d577"


def test_the_documented_program_takes_words_from_a_published_file(
    tmp_path, monkeypatch):
  page = runs.ROOT / "docs" / "evaluation.md"
  (program,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  (tmp_path / "d1/eval").mkdir(parents=True)
  (tmp_path / "d1/eval/gsm8k.py").write_text(
    "import not_installed\nA.b = 1\n"
    "GSM_SYSTEM_PROMPT = ('Be' + ' brief {}. ')\n")
  monkeypatch.chdir(tmp_path)
  exec(program, {})
  text = templates.read("d1_gsm8k.json")
  fields = tasks.TASKS["gsm8k"].fields
  assert templates.question("d1_gsm8k.json", text, "gsm8k", fields, {})(
    {"question": "1+1?"}) == [
      {"role": "user", "content": "Be brief {}. \n\n1+1?"},
      {"role": "assistant", "content": "<reasoning>"}]


def test_templates_of_answers_need_bare_prompts(tmp_path):
  (tmp_path / "p.txt").write_text("{question}")
  values = bgpo.get_config("smoke")
  values.rollout.prior.template = 0.5
  validate.from_dict(values)
  values.task.prompt_file = str(tmp_path / "p.txt")
  with pytest.raises(strict.ConfigError, match="'bare'"):
    validate.from_dict(values)
