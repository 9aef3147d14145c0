"""The evaluation protocols of papers: data, prompt, decoding and scorer.

    d1     arXiv 2504.12216; wd1 follows it. Zero-shot, the answer starts with
           `<reasoning>`, two tokens per denoising step, greedy. Sudoku: 256 of
           500 puzzles, scored by cells.
    spg    As d1, except Sudoku: three worked examples and puzzles of its own,
           whose solutions occur in no training puzzle. Its GSM8K scorer falls
           back to the last number of the text.
    espo   Sudoku and Countdown as d1, with prompts of its own; mathematics and
           code with the prompts of OpenCompass and one token per step.
    bgpo   arXiv 2510.11683. One length, one token per step. Its prompts and
           scorers are not public; the common request for a boxed answer and the
           sound scorers take their place.

Prompts are reconstructed from the papers' descriptions, see
`dlrl/tasks/*/texts`; use `config.task.prompt_file` for the exact words.
The papers report the best of many checkpoints on the test set itself.
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
  """The evaluation of one task.

  Attributes:
    data: a key of `dlrl.tasks.TASKS`; its test split is evaluated.
    prompt: the name of one of that task's prompts.
    scorer: a key of `dlrl.tasks.published_scorers.scorers.SCORERS`.
    lengths: completion lengths, in tokens; each is evaluated.
    tokens_per_step: tokens committed per denoising step.
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
    "math": _box("math_5000", "espo"),  # all of MATH's test split
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
  """Applies the protocol `name` for `values.task.name`, in place.

  Two settings are kept: `evaluation.size`, for trials on few items, and
  `task.prompt_file`, with which users supply the paper's exact prompt.

  Raises:
    strict.ConfigError: the protocol does not have this task.
  """
  table = PROTOCOLS[name]
  by_data = {protocol.data: protocol for protocol in table.values()}
  protocol = table.get(values.task.name) or by_data.get(values.task.name)
  if protocol is None:
    raise strict.ConfigError(
      "task.name", values.task.name,
      f"--protocol={name} evaluates only {', '.join(map(repr, table))}")
  values.task.name, values.task.prompt = protocol.data, protocol.prompt
  if values.task.prompt_text:  # already read: the prompt of the training run
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
