"""How completions are decoded, and what they start from."""

import dataclasses

from dlrl.config.kinds import Restart
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """Block-wise decoding of a canvas of masked tokens."""

  gen_length: int = knob(
    16, "length of the canvas", unit="tokens", at_least=1)
  block_length: int = knob(
    16, "length of a block; blocks are decoded left to right", unit="tokens",
    at_least=1)
  steps: int = knob(
    8, "denoising steps for the whole canvas", at_least=1)
  temperature: float = knob(
    0.0, "scale of the Gumbel noise; 0: greedy", at_least=0)
  fill_after: float = knob(
    1.0, "share of a row's tokens after which one step commits all the rest",
    at_least=0, at_most=1)
  remasking: str = knob(
    "low_confidence", "which predictions a step commits")
  threshold: float = knob(
    0.0, "commit every token above this probability; 0: a fixed number a step",
    at_least=0, at_most=1)
  edit_threshold: float = knob(
    1.0, "with blocks, replace every committed token of the block whose "
    "prediction differs with more than this probability; 1: none. LLaDA2.1's "
    "modes: 0.5 with threshold 0.7 (Q), 0 with 0.5 (S)", at_least=0, at_most=1)
  max_post_edit: int = knob(
    16, "most passes of a block for edits alone, after its last mask",
    at_least=0)
  fallback: str = knob(
    "confident", "token committed if none is above the threshold")
  factor: float = knob(
    0.0, "commit by Fast-dLLM's factor; 0: a fixed number a step", at_least=0)
  top_k: int = knob(
    0, "number of likeliest tokens that are sampled from; 0: all",
    unit="tokens", at_least=0)
  top_p: float = knob(
    1.0, "share of the probability mass that is sampled from", above=0,
    at_most=1)
  cfg_scale: float = knob(
    0.0, "classifier-free guidance; 0: none", at_least=0)
  eos: str = knob(
    "free", "the end-of-text token: free, never predicted, committed last, or "
    "the end of its row")
  cache: str = knob(
    "none", "keys and values kept while a block is decoded; an approximation")
  slots: int = knob(
    0, "rows decoded at a time, the next one in the place of one that has "
    "ended; changes no token; 0: all at once", at_least=0,
    restart=Restart.ROUNDING)
  gather_once: bool = knob(
    False, "gather all layers along mesh.fsdp before decoding, not one by one "
    "in every pass; a device then holds them in the compute dtype",
    restart=Restart.ROUNDING)
  quantize: str = knob(
    "none", "format in which the layers' matrices are multiplied: none is the "
    "compute dtype; int8 and fp8 round them and what they are multiplied by")


@dataclasses.dataclass(frozen=True)
class PriorConfig:
  """Tokens that a rollout starts from instead of masks (STP's pruning).

  All completions of a prompt start from the same ones, which no loss sees.
  """

  template: float = knob(
    0.0, "share of the tokens that the task knows of every answer; 0: none",
    at_least=0, at_most=1)
  memory: float = knob(
    0.0, "share of the tokens of an earlier good completion; 0: none",
    at_least=0, at_most=1)
  remask: str = knob("random", "which of these tokens are masked again")
  anneal_steps: int = knob(
    0, "RL steps until both shares have fallen to 0; 0: constant", at_least=0)
  slots: int = knob(
    4096, "prompts whose completion is remembered", at_least=1)
  min_reward: float = knob(
    1.0, "smallest reward of a completion that is remembered")
