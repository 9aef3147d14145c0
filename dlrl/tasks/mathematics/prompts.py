r"""How GSM8K and MATH are asked: in short, in words, and as published runs do.

The texts of other projects are reconstructed from descriptions: what they say
and the format they ask for is theirs; the wording is ours, but for the requests
for a box that fill one line. So numbers made with them are close to a paper's
setting and not the same to the last token.
wd1, SPG and dllm use d1's. BGPO's is not public: `bgpo` is a guess, the common
request for a box. ESPO evaluates GSM8K with four worked examples, ours here.

A name that ends in `_eval` is what the project evaluates with, where that
differs from what it trains with. Ours is one text for both.
"""

from collections.abc import Callable

from dlrl.tasks import frames
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import gsm8k_data

Parts = Callable[[task_lib.Example], tuple[str, str]]  # reasoning and answer

_OURS = ("\n\nThink step by step. At the end, write the final answer in "
         "\\boxed{}.")
_BOX = ("\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.")
_TRACE_RL = ("You need to put your final answer in \\boxed{}. This is the "
             "problem:\n")
_EXPERT = ("You are a math expert. Solve the question that you are given step "
           "by step, and wrap the final answer in a \\boxed{}.")

# Questions and answers, for `espo_eval`.
_EXAMPLES = (
  ("A shelf has 4 rows of 12 jars. Nina takes 9 jars away and puts back a "
   "third of them. How many jars are on the shelf now?",
   "At first there are 4 * 12 = 48 jars. Without 9 of them there are 48 - 9 = "
   "39. She puts back 9 / 3 = 3, so there are 39 + 3 = 42.", "42"),
  ("A train ticket costs $18, and half of that for a child. What do 2 adults "
   "and 3 children pay?",
   "A child's ticket costs 18 / 2 = 9 dollars. The adults pay 2 * 18 = 36, the "
   "children 3 * 9 = 27, together 36 + 27 = 63.", "63"),
  ("Omar reads 15 pages on Monday and each day 5 pages more than on the day "
   "before. How many pages has he read by the end of Thursday?",
   "He reads 15, 15 + 5 = 20, 20 + 5 = 25 and 25 + 5 = 30 pages. That is 15 "
   "+ 20 + 25 + 30 = 90.", "90"),
  ("A tank of 240 liters is 25% full. A pump adds 12 liters a minute. After "
   "how many minutes is the tank full?",
   "It holds 240 * 0.25 = 60 liters, so 240 - 60 = 180 are missing. At 12 a "
   "minute they take 180 / 12 = 15 minutes.", "15"),
)



def _before(text: str, column: str, answer: Callable[[task_lib.Example], str]
            ) -> task_lib.Prompt:
  return task_lib.Prompt(lambda row: text + row[column], answer)


def _after(column: str, text: str) -> task_lib.Prompt:
  return task_lib.Prompt(lambda row: row[column] + text)


def _of_both(column: str, parts: Parts) -> dict[str, task_lib.Prompt]:
  """The prompts that say the same of both datasets."""
  def evaluated(row: task_lib.Example) -> task_lib.Text:
    return frames.begun(f"{_EXPERT} {frames.BOXED_FORMAT}\n\n{row[column]}")

  def answer(row: task_lib.Example) -> str:
    reasoning, final = parts(row)
    return frames.after_begun(reasoning, frames.boxed(final))

  d1_eval = task_lib.Prompt(evaluated, answer)
  return {
    "bare": frames.column(column),
    "dlrl": _after(column, _OURS),
    "d1_eval": d1_eval,
    "spg_eval": d1_eval,
    "espo": _after(column, _BOX),
    "bgpo": _after(column, _BOX),
    "trace_rl": _before(_TRACE_RL, column, task_lib.solution),
  }


def _steps(row: task_lib.Example) -> tuple[str, str]:
  return gsm8k_data.parts(row["answer"])


def _question(question: str) -> dict[str, str]:
  return {"role": "user", "content":
          f"Question: {question}\nLet's think step by step\nAnswer:"}


def _stated(reasoning: str, answer: str) -> str:
  return f"{reasoning}\nThe answer is {answer}"


def _after_examples(row: task_lib.Example) -> task_lib.Text:
  messages = []
  for question, reasoning, answer in _EXAMPLES:
    messages += [_question(question), {
      "role": "assistant", "content": _stated(reasoning, answer)}]
  return [*messages, _question(row["question"])]


_GSM8K_D1 = _before(frames.FORMAT + "\n\n", "question",
                    lambda row: frames.framed(*_steps(row)))
_MATH_D1 = _before(
  f"{frames.FORMAT}\n{_EXPERT}\n\n", "problem",
  lambda row: frames.framed(row["solution"], frames.boxed(row["answer"])))

GSM8K = _of_both("question", _steps) | {
  "d1": _GSM8K_D1,
  "spg": _GSM8K_D1,
  "espo_eval": task_lib.Prompt(
    _after_examples, lambda row: _stated(*_steps(row))),
}
MATH = _of_both("problem", lambda row: (row["solution"], row["answer"])) | {
  "d1": _MATH_D1,
  "spg": _MATH_D1,
}
