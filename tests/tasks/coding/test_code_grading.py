import gzip
import json
import multiprocessing
import os
import re
import time

import hypothesis
import pytest
import sandboxes
from hypothesis import strategies as st

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import sandbox
from dlrl.tasks.coding import grading as code_grading
from dlrl.tasks.coding import results as code_results

# To run 10,000 cases: DLRL_FUZZ_CASES=10000 pytest FILE -k fuzz. To run all
# published programs: DLRL_PUBLISHED_STRIDE=1 pytest FILE -k published.
FUZZ_CASES = int(os.environ.get("DLRL_FUZZ_CASES", "100"))
PUBLISHED_STRIDE = int(os.environ.get("DLRL_PUBLISHED_STRIDE", "25"))
PREFIX = '''from typing import List


def helper(a: int) -> int:
    return a + 1


def add(a: int, b: int) -> int:
    """ Adds.
    """
'''
ADD = "def add(a, b):\n  return a + b\n"
TESTS = ["assert add(1, 2) == 3", "assert add(20, 22) == 42"]


@pytest.fixture(scope="module", autouse=True)
def box():
  try:
    code_results.start()
  except strict.ConfigError as error:
    pytest.skip(f"not on this machine: {error}")
  yield
  code_results.close()


def fenced(text: str, language: str = "python") -> str:
  return f"```{language}\n{text}```\n"


def rewards(reward, *completions: str, tests=TESTS, prefix="", setup="",
            entry_point="add"):
  count = len(completions)
  return reward([""] * count, list(completions), tests=[tests] * count,
                entry_point=[entry_point] * count, prefix=[prefix] * count,
                setup=[setup] * count, difficulty=[0] * count)


@pytest.mark.parametrize(("completion", "program"), [
    (fenced(ADD), ADD),
    (f"Sure:\n\n{fenced(ADD)}\nDone.", ADD),
    (fenced(ADD, ""), ADD),
    (fenced(ADD, " Python"), ADD),
    (fenced("x\n") + fenced(ADD), ADD),  # the last
    (fenced(ADD) + fenced("add", "text"), ADD),
    (fenced(ADD) + "```python\nx", ADD),  # the last complete one
    ("```python\nx\n" + fenced(ADD), ADD),
    (fenced(ADD).replace("\n", "\r\n"), ADD.replace("\n", "\r\n")),
    ("````python\n```\n````\n", "```\n"),
    (ADD, ADD),
    ("add = lambda a, b: a + b", "add = lambda a, b: a + b"),
    ("```python\n" + ADD, None),  # not closed
    ("```python\n" + ADD + "x = '```'\n", None),
    (fenced(ADD, "java"), None),
    (fenced("\n\n"), None),
    ("It is a sum.", None),
    ("The function add(a, b) is def add.", None),
    ("", None),
    (" " * 200_000, None),
])
def test_the_program_of_a_completion(completion, program):
  assert code_grading.program(completion, entry_point="add") == program


def test_a_completion_continues_its_prefix():
  body = "    return a + b\n"
  for completion in (body, fenced(body), fenced(ADD), ADD):
    text = code_grading.program(completion, prefix=PREFIX, entry_point="add")
    assert text.startswith(PREFIX)
    assert rewards(code_grading.passed_reward, completion, prefix=PREFIX) == [1]
  assert code_grading.program("", prefix=PREFIX, entry_point="add") is None
  assert rewards(code_grading.passed_reward, "    return a\n", "a + b",
                 "    pass", prefix=PREFIX) == [0, 0, 0]


def test_tests_use_what_the_prefix_defines():
  test = ["assert helper(add(1, 2)) == 4"]
  forged = fenced("    return 0\n\ndef helper(a): return 4\n")
  assert rewards(code_grading.passed_reward, fenced(ADD), forged, tests=test,
                 prefix=PREFIX) == [1, 0]


def test_rewards_of_programs():
  half = fenced("def add(a, b): return 3\n")
  completions = (fenced(ADD), ADD, half, fenced("def add(a, b): return 0\n"),
                 fenced("def sum(a, b): return a + b\n"), "no program",
                 fenced("exit(0)\n"), fenced("def add(a, b)\n return 0\n"))
  assert rewards(code_grading.passed_reward, *completions) == [
      1, 1, 0, 0, 0, 0, 0, 0]
  assert rewards(code_grading.fraction_reward, *completions) == [
      1, 1, 0.5, 0, 0, 0, 0, 0]


def test_the_setup_runs_before_the_tests():
  assert rewards(code_grading.passed_reward, fenced(ADD), setup="wanted = 3",
                 tests=["assert add(1, 2) == wanted"]) == [1]


@pytest.mark.parametrize(("completion", "reward"), [
    (fenced(ADD), 1),
    (f"Sure:\n{fenced(ADD)}Done.", 1),
    (fenced("import math\nadd = math.hypot\n"), 1),
    (ADD, 0),
    (fenced(ADD, ""), 0),
    (fenced(ADD) + fenced(ADD), 0),
    (fenced(ADD) + fenced("3", "text"), 0),
    (fenced(ADD) + "```", 0),
    ("```python\nx\n" + fenced(ADD), 0),
    ("```python\n" + ADD, 0),
    (fenced("def add(a, b)\n"), 0),
    (fenced("def sum(a, b): return a + b\n"), 0),
    (fenced("def f(): add = 1\n"), 0),
    (fenced(ADD + "return 1\n"), 0),
    (fenced("# add\n"), 0),
    (fenced(ADD + "\0\n"), 0),
    (fenced(ADD + "'\ud800'\n"), 0),
    (fenced("("*5000 + "\n"), 0),
    (fenced("add = " + "["*150 + "]"*150 + "\n"), 1),
    (fenced("add = " + "-" * 50_000 + "1\n"), 0),
    (fenced("add = " + "not " * 20_000 + "1\n"), 0),
    (fenced("add = " + "f(" * 10_000 + ")" * 10_000 + "\n"), 0),
    (fenced("add = a" + "()" * 40_000 + "\n"), 0),
    (fenced("add = " + "lambda: " * 10_000 + "1\n"), 0),
    (fenced("add = " + "1 if 1 else " * 8_000 + "1\n"), 0),
])
def test_the_format_is_one_block_that_compiles(completion, reward):
  assert rewards(code_grading.format_reward, completion) == [reward]


@pytest.mark.slow
def test_texts_that_compile_slowly_cost_their_neighbours_nothing(monkeypatch):
  slow = "".join(f"{' ' * i}try: pass\n{' ' * i}finally:\n"
                 for i in range(17)) + " " * 17 + "pass\n"  # 2 s
  bad = [fenced(f"def add(a): return {i}\n{slow}") for i in range(4)]
  good = [fenced(f"def add(a): return {i}\n") for i in range(4)]
  with sandbox.Sandbox(sandbox.ProgramLimits(total_s=5)) as box:
    monkeypatch.setattr(code_results, "_box", box)
    assert rewards(code_grading.format_reward, *bad, *good) == [
        0] * 4 + [1] * 4


def test_a_check_for_which_no_time_was_left_has_one_of_its_own(monkeypatch):
  """And is unknown if that was not enough."""
  late, passed = client.Outcome.LATE, client.Outcome.PASSED
  sizes = []

  def run(programs, alone):
    sizes.append([len(program.tests) for program in programs])
    return [sandbox.Result(
        (passed, late, late) if len(program.tests) == 3 else (alone,),
        ("",) * len(program.tests)) for program in programs]

  texts = [fenced(f"def add(a): return {i}\n") for i in range(3)]
  for alone, reward in ((passed, 1), (late, None)):
    monkeypatch.setattr(code_results, "run", lambda programs, alone=alone: run(
        programs, alone))
    assert rewards(code_grading.format_reward, *texts) == [1, reward, reward]
  assert sizes == [[3], [1, 1]] * 2


def test_a_format_may_have_a_prefix_and_no_entry_point():
  body = fenced("    return a + b\n")
  assert rewards(code_grading.format_reward, body, fenced(ADD),
                 prefix=PREFIX) == [1, 1]
  assert rewards(code_grading.format_reward, body) == [0]
  assert code_grading.format_reward(
    ["", ""], [fenced("x = 1\n"), fenced("#\n")]) == [1, 0]


@pytest.mark.parametrize("filler, size, count", [
    ("x", 16_000, 64), ("x", 90_000, 12), ("\u2603", 16_000, 64),
    ("\x01", 16_000, 64), ("\U0010ffff", 90_000, 2), ("'\\", 16_000, 64)])
def test_the_format_of_long_and_unprintable_batches_is_read(
    filler, size, count):
  texts = [fenced(f"{ADD}# {i} {filler * (size // len(filler))}\n")
           for i in range(count)]
  wrong = fenced("# " + filler * (size // len(filler)) + "\n(")
  found = rewards(code_grading.format_reward, *texts, wrong)
  assert found == [1] * count + [0]


def test_a_program_whose_tests_are_too_long_for_the_sandbox_is_unknown():
  right = "```python\ndef f(x):\n  return x\n```"
  setup = ["#" + "y" * 10**6, ""]
  columns = dict(tests=[["assert f(1) == 1"]] * 2, setup=setup,
                 entry_point=["f", "f"])
  for reward in (code_grading.passed_reward, code_grading.fraction_reward):
    assert reward(["q"] * 2, [right] * 2, **columns) == [None, 1.0]


def test_the_format_after_a_prefix_too_long_for_the_sandbox_is_unknown():
  long = "#" + "x" * sandbox.MAX_CHARACTERS + "\n"
  assert code_grading.format_reward(
    [""] * 2, [fenced(ADD)] * 2, entry_point=["add"] * 2,
    prefix=["", long]) == [1, None]


@pytest.mark.slow
def test_a_sandbox_that_fails_gives_no_reward(monkeypatch):
  sandboxes.no_process_in_time(monkeypatch)
  completions = (fenced(ADD + "# not seen before\n"), "no program")
  assert rewards(code_grading.passed_reward, *completions) == [None, 0]
  assert rewards(code_grading.fraction_reward, *completions) == [None, 0]
  assert rewards(code_grading.format_reward, *completions) == [None, 0]
  assert rewards(code_grading.metrics, *completions) == {
      "solved": [None, 0], "tests": [None, 0], "format": [None, 0]}
  monkeypatch.undo()
  assert rewards(code_grading.passed_reward, *completions) == [1, 0]


def test_metrics_run_a_program_once(monkeypatch):
  ran = []
  run = sandbox.Sandbox.run
  monkeypatch.setattr(sandbox.Sandbox, "run", lambda self, programs: (
      ran.extend(programs), run(self, programs))[1])
  found = rewards(code_grading.metrics, *[fenced(ADD + "# once\n")] * 3)
  assert found == {"solved": [1] * 3, "tests": [1] * 3, "format": [1] * 3}
  assert len(ran) == 2  # the program, and the check of its format


def test_examples_must_have_tests():
  for completion in (fenced(ADD), "no program"):
    with pytest.raises(strict.ConfigError, match="an example has no tests"):
      rewards(code_grading.passed_reward, completion, tests=[])


def _reward(queue):
  queue.put(rewards(code_grading.passed_reward, fenced(ADD + "# of a child\n")))


def test_a_forked_child_has_a_sandbox_of_its_own():
  context = multiprocessing.get_context("fork")
  queue = context.Queue()
  child = context.Process(target=_reward, args=(queue,))
  child.start()
  assert queue.get(timeout=60) == [1]
  child.join()
  found = rewards(code_grading.passed_reward, fenced(ADD + "# of a parent\n"))
  assert found == [1]


PIECES = st.sampled_from([
    "```python\n", "```\n", "```", "\n", "`", "~~~\n", "    ", "\t", "\r", "\0",
    "\ud800", "def add(a, b):", " return", " a + b", "add", "(", "[", "{", "-",
    "not ", "lambda: ", "'''", '"', "#", "\\\n", "f'{", "class ", "1e999", "é",
    "\u2028", "\x0c", "if 1:\n", "<answer>", "import os", "exit(0)", "²"])
TEXTS = (st.lists(PIECES | st.text(max_size=5), max_size=60).map("".join)
         | st.builds(lambda piece, times: (piece * times)[:20_000], PIECES,
                     st.integers(0, 20_000))
         | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))


@hypothesis.given(st.lists(TEXTS, min_size=25, max_size=25))
@hypothesis.settings(
    deadline=None, max_examples=max(1, FUZZ_CASES // 25), database=None,
    suppress_health_check=list(hypothesis.HealthCheck))
def test_fuzz_no_text_raises_takes_long_or_is_rewarded_without_an_answer(texts):
  answer = [text for text in texts if "return a + b" in text]
  hypothesis.assume(not answer)
  completions = [*texts, *(fenced(f"{text}\n") for text in texts)]
  start = time.process_time()
  for completion in completions:
    code_grading.blocks(completion)
    code_grading.program(completion, prefix=PREFIX, entry_point="add")
  assert time.process_time() - start < 0.05 * len(completions)
  start = time.monotonic()
  found = rewards(code_grading.metrics, *completions)
  assert time.monotonic() - start < 0.05 * len(completions) + 5  # crashes
  assert found["solved"] == found["tests"] == [0] * len(completions)
  assert set(found["format"]) <= {0, 1}


@pytest.fixture(scope="module")
def published(shared):
  """The reference solutions of the data sets: (name, columns)."""
  found = []
  data = shared / "data"
  with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
    for line in file:
      row = json.loads(line)
      found.append((row["task_id"], dict(
          completion=row["canonical_solution"], prefix=row["prompt"], setup="",
          entry_point=row["entry_point"],
          tests=[f"{row['test']}\ncheck({row['entry_point']})"])))
  with open(data / "mbpp" / "mbpp.jsonl") as file:
    rows = [dict(json.loads(line)) for line in file]
  with open(data / "mbpp" / "sanitized-mbpp.json") as file:
    rows += json.load(file)
  for row in rows:
    tests = row["test_list"] + row.get("challenge_test_list", [])
    name = next(name for name in _called(tests[0])
                if f"def {name}" in row["code"])
    found.append((f"MBPP/{row['task_id']}", dict(
        completion=fenced(row["code"] + "\n"), prefix="", entry_point=name,
        setup=row.get("test_setup_code") or "\n".join(
            row.get("test_imports", [])), tests=tests)))
  return found


def _called(test: str) -> list[str]:
  return re.findall(r"(\w+)\s*\(", test)


@pytest.mark.shared_data
def test_published_programs_pass_their_tests(published):
  rows = published[::PUBLISHED_STRIDE]
  columns = {name: [row[name] for _, row in rows] for name in rows[0][1]}
  found = code_grading.passed_reward(
      [""] * len(rows), columns.pop("completion"), **columns)
  assert [name for (name, _), reward in zip(rows, found, strict=True)
          if reward != 1] == []
