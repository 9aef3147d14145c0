"""How papers evaluate: data, prompt, decoding and scorer, by task.

    d1     arXiv 2504.12216, and wd1 after it: no examples, the answer begun
           with `<reasoning>`, half as many steps as tokens, greedy. 256 of 500
           puzzles of Sudoku, with cells as the score.
    spg    the same, but Sudoku with three worked examples, on puzzles of its
           own, of which the solutions occur in no training puzzle, and GSM8K
           with a last resort in its scorer.
    espo   Sudoku and Countdown as d1 with prompts of its own; mathematics and
           code by OpenCompass' texts, a token a step.
    bgpo   arXiv 2510.11683: one length, a token a step. Its prompts and scorers
           are not public: the common request for a box and sound scorers stand
           for them.

Prompts are reconstructed from descriptions, see `dlrl/tasks/*_prompts.py`; for
their exact words give a file, `task.prompt_file`. The papers report the best of
many checkpoints on the test set itself.
"""

import dataclasses
from collections.abc import Mapping

import ml_collections

from dlrl import config
from dlrl import strict
from dlrl import tasks

SOUND, D1, SPG = "sound", "legacy_d1", "legacy_spg"


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Of one task.

  Attributes:
    data: a key of `dlrl.tasks.TASKS`, of which the test rows are evaluated.
    prompt: one of that task's.
    scorer: a key of `dlrl.tasks.published_scorers.scorers.SCORERS`.
    lengths: tokens of completions.
    tokens_per_step: 1 or 2.
  """

  data: str
  prompt: str
  scorer: str = D1
  lengths: tuple[int, ...] = (128, 256, 512)
  tokens_per_step: int = 2


def _bgpo(data: str, prompt: str, length: int) -> Protocol:
  return Protocol(data, prompt, SOUND, (length,), 1)


def _box(data: str, prompt: str) -> Protocol:
  return Protocol(data, prompt, SOUND, tokens_per_step=1)


PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = {
  "d1": {
    "sudoku": Protocol("sudoku_d1", "d1_eval"),
    "countdown": Protocol("countdown_d1", "d1_eval"),
    "gsm8k": Protocol("gsm8k", "d1_eval"),
    "math": Protocol("math_500", "d1_eval"),
  },
  "spg": {
    "sudoku": Protocol("sudoku_spg", "spg_eval", SPG),
    "countdown": Protocol("countdown_d1", "spg_eval", SPG),
    "gsm8k": Protocol("gsm8k", "spg_eval", SPG),
    "math": Protocol("math_500", "spg_eval", SPG),
  },
  "espo": {
    "sudoku": Protocol("sudoku_d1", "espo_eval"),
    "countdown": Protocol("countdown_d1", "espo_eval"),
    "gsm8k": _box("gsm8k", "espo_eval"),
    "math": _box("math_5000", "espo"),  # its test set, not MATH500
    "mbpp": _box("mbpp", "espo"),
    "humaneval": _box("humaneval", "espo"),
  },
  "bgpo": {
    "sudoku": _bgpo("sudoku_d1", "d1_eval", 256),
    "countdown": _bgpo("countdown_d1", "d1_eval", 256),
    "gsm8k": _bgpo("gsm8k", "bgpo", 512),
    "math": _bgpo("math_500", "bgpo", 512),
    "mbpp": _bgpo("mbpp", "bgpo", 512),
    "humaneval": _bgpo("humaneval", "bgpo", 512),
  },
}


def apply(values: ml_collections.ConfigDict, name: str) -> None:
  """Sets what the paper `name` does for `values.task.name`, in place.

  A prompt file that has not been read yet stays: its text is the paper's. So
  does `evaluation.size`, for a trial.

  Raises:
    strict.ConfigError: it has no such task.
  """
  table = PROTOCOLS[name]
  by_data = {protocol.data: protocol for protocol in table.values()}
  protocol = table.get(values.task.name) or by_data.get(values.task.name)
  if protocol is None:
    raise strict.ConfigError(
      "task.name", values.task.name,
      f"protocol {name!r} has only {', '.join(map(repr, table))}")
  values.task.name, values.task.prompt = protocol.data, protocol.prompt
  if values.task.prompt_text:  # what a run was trained with
    values.task.prompt_file = values.task.prompt_text = ""
  values.task.few_shot = 0
  values.eval.difficulty = tasks.TASKS[protocol.data].difficulties
  first = protocol.lengths[0]
  values.eval.sampler = dataclasses.asdict(config.SamplerConfig(
    gen_length=first, block_length=32,
    steps=first // protocol.tokens_per_step))
  values.evaluation = dataclasses.asdict(config.EvaluationConfig(
    size=values.evaluation.size, lengths=protocol.lengths,
    tokens_per_step=protocol.tokens_per_step, scorer=protocol.scorer))
