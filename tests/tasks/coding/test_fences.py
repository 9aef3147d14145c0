"""Programs in completions: where their fences stand, and in what time."""

import itertools
import time

import pytest

from dlrl.tasks.coding import grading as code_grading
from dlrl.tasks.coding import results as code_results

ADD = "def add2(a, b):\n    return a + b\n"
LIST = "1. Code:\n   ```python\n   def add2(a, b):\n       return a + b\n   ```"
PREFIX = 'def add2(a, b):\n    """Adds."""\n'
BODY = "    return a + b\n"


def indented(text: str, by: str) -> str:
  return "".join(f"{by}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize("completion", [
    # After a fence that the prompt opened.
    f"{ADD}```",
    f"{ADD}```\n",
    f"{ADD}```\nIt adds.",
    f"{ADD.rstrip()}```",
    f"import math\n\n{ADD}```\nOutput:\n```\n3\n```",
    f"{ADD}```\nFor example:\n```python\nprint(add2(1, 2))\n```",
    # In list items.
    LIST,
    LIST + "\n2. Done.",
    f"- Code:\n  ```python\n{indented(ADD, '  ')}  ```",
    f"- Code:\n    ```python\n{indented(ADD, '    ')}    ```",
    f"10) Code:\n\n    ```py\n{indented(ADD, '    ')}    ```\n",
    f"* a\n  * b\n    ```\n{indented(ADD, '    ')}    ```\n",
    f"1. ```python\n{indented(ADD, '   ')}   ```",
    f"- 1. ```python\n{indented(ADD, '     ')}     ```",
    f"\t```python\n{indented(ADD, chr(9))}\t```",
    f"1. Code:\n   ```python\n{ADD}   ```",
    f"1. Code:\n   ```python\n{ADD}```",
    f"1. Code: ```python\n{indented(ADD, '   ')}   ```",
    # The end of the code and a closing fence on one line.
    f"```python\n{ADD.rstrip()}```",
    f"```python\n{ADD.rstrip()} ```  \n",
    f"```python\n{ADD.rstrip()}```\nIt adds.",
    f"```python\n{ADD.rstrip()}``` It adds.",
    f"```python\n{ADD.rstrip()}```\nOutput:\n```\n3\n```",
    f"~~~python\n{ADD}~~~",
    # Prose on the fence's line.
    f"Here is the code: ```python\n{ADD}```",
    f"Here it is:```\n{ADD}```\nBye.",
    f"Here it is: ```python\n{ADD.rstrip()}``` Bye.",
    f"```python\n{ADD}``` Hope this helps!",
    f"```python\n{ADD}```.",
    "```python def add2(a, b): return a + b\n```",
    "```python def add2(a, b): return a + b```",
    f"```python title='add' linenos\n{ADD}```",
    f"```{{.python .numberLines}}\n{ADD}```",
    f"```python:add.py\n{ADD}```",
    "```python\rdef add2(a, b):\r    return a + b\r```",
    # Brackets and tags behind the closing fence.
    f"```python\n{ADD}```<|im_end|>",
    f"<answer>```python\n{ADD}```</answer>",
    f"```python\n{ADD}```<br>\nIt adds.",
    f"\\boxed{{```python\n{ADD}```}}",
    f"[```python\n{ADD}```]",
    f"**```python\n{ADD}```**",
    f"```python\n{ADD}```\\end{{answer}}",
    # Other blocks around it.
    f"```python\n{ADD}```\nFor example:\n```python\nprint(add2(1, 2))\n```",
    f"```sh\npip install x\n```\n```python\n{ADD}```",
    f"```python\n{ADD}```\nA shorter one:\n```python\nadd2 = lambd",
    # Fences in a program.
    f"````python\n{ADD}s = '''\n```\n'''\n````",
    "```python\ndef add2(a, b):\n    '''Adds.\n\n    ```\n    add2(1, 2)\n"
    "    ```\n    '''\n    return a + b\n```",
    "def add2(a, b):\n    '''Adds.\n\n    ```\n    add2(1, 2)\n    ```\n"
    "    '''\n    return a + b\n",
    "def add2(a, b):\n    '''Such as ```add2(1, 2)```.'''\n    return a + b\n",
])
def test_a_program_is_found_wherever_its_fences_are(completion):
  text = code_grading.program(completion, entry_point="add2")
  space: dict = {}
  exec(text, space)  # ours, not a model's
  assert space["add2"](2, 3) == 5


@pytest.mark.parametrize("completion", [
    f"{BODY}```", f"```python\n{BODY.rstrip()}```",
    f"1. ```python\n{indented(BODY, '   ')}   ```",
    f"{BODY}```\nOutput:\n```\n3\n```",
    f"```python\n{BODY}```\nUse it so:\n```python\nadd2(1, 2)\n```",
    f"```python\n{BODY}``` Done.", f"Here: ```python\n{BODY}```",
    f"{ADD}```", LIST])
def test_the_rest_of_a_prefix_is_found_wherever_its_fences_are(completion):
  text = code_grading.program(completion, prefix=PREFIX, entry_point="add2")
  space: dict = {}
  exec(text, space)
  assert space["add2"](2, 3) == 5


@pytest.mark.parametrize("completion", [
    f"```python\n{ADD}", f"```python\n{ADD}x = '```'\n", f"```java\n{ADD}```",
    f"```python\n{ADD}```python", f"It is {ADD}", "```", "```python\n```",
    "Here it is: ```python```", "Use `add2`.\n```"])
def test_text_without_a_complete_block_has_no_program(completion):
  assert code_grading.program(completion, entry_point="add2") is None


def test_without_an_entry_point_the_last_block_counts():
  found = [code_grading.program(text) for text in (
      f"```python\n{ADD}```\n```python\nadd2(1, 2)\n```",
      f"{ADD}```", LIST, f"An idea.\n```\n{ADD}```\nMore:\n```\ndef")]
  assert found == ["add2(1, 2)\n", ADD, ADD, ADD]


@pytest.fixture
def _box():
  try:
    code_results.start()
  except Exception as error:
    pytest.skip(f"not on this machine: {error}")
  yield
  code_results.close()


def test_a_prompt_may_open_the_block(_box):
  opened = "Add:\n```python\n"
  closed = f"Add, as in\n```python\n{ADD}```\n"
  said = [{"role": "user", "content": "Add:"},
          {"role": "assistant", "content": "```python"}]
  asked = [{"role": "user", "content": "Complete:\n```python"}]
  prompts = [opened, closed, said, asked, opened]
  completions = [f"{ADD}```"] * 4 + [ADD]
  columns = dict(tests=[["assert add2(2, 3) == 5"]] * 5)
  assert code_grading.format_reward(prompts, completions, **columns) == [
      1, 0, 1, 0, 0]
  assert code_grading.passed_reward(prompts, completions, **columns) == [
      1, 1, 1, 1, 0]


# Each is repeated up to the longest text in which a program is looked for.
HOSTILE = [
    "a", "`", "``", "```", "```a", "```\n", "```python\n", "``` ", "a```",
    "a``` b\n", "- ", "1. ", "- ```\n", "\t", " ", "\n", "\r\n", "~~~", "~~~\n",
    "~", "> ", "{", "{.", "async ", "async def ", "def ", "def add2", "add2 ",
    "add2 =", "\x0c", "\u2028", "'''", "`a", "`````\n````\n", "\t```\n", "é"]


@pytest.mark.parametrize(("unit", "start"), zip(HOSTILE, itertools.cycle(
    ["```", "def add2\n", "```python\n"])))
def test_the_time_to_read_a_text_is_linear(unit, start):
  text = (start + unit * 100_000)[:99_999] + "`"
  begin = time.process_time()
  code_grading.blocks(text)
  code_grading.program(text, prefix=PREFIX, entry_point="add2")
  code_grading.answer({"entry_point": "add2"}, text)
  assert time.process_time() - begin < 3


@pytest.mark.slow
def test_rewards_of_hostile_texts_take_little_time(_box):
  texts = [(unit * 100_000)[:90_000] + "`" for unit in HOSTILE[:12]]
  texts += [f"```python\n{text[:-1]}\n```" for text in texts]
  count = len(texts)
  begin = time.process_time()
  found = code_grading.metrics(
      [""] * count, texts, entry_point=["add2"] * count,
      tests=[["assert add2(2, 3) == 5"]] * count)
  assert time.process_time() - begin < 15  # of this process
  assert found["solved"] == [0] * count


def test_a_reading_of_results_takes_little_time(_box):
  """Replies of a program are read by its judge, not by this process."""
  code = "```python\ndef add2(a, b):\n  return {}\n```"
  values = ["'9' * (1 << 21)", "[[]] * (1 << 17)", "1 << (1 << 22)",
            "{i * ((1 << 61) - 1) for i in range(9000)}"]  # all one hash
  begin = time.process_time()
  found = code_grading.passed_reward(
      [""] * len(values), [code.format(value) for value in values],
      entry_point=["add2"] * len(values),
      tests=[["assert add2(2, 3) == 5"]] * len(values))
  assert time.process_time() - begin < 5
  assert found == [0] * len(values)
