"""4x4 Sudoku on a CPU, from easy puzzles to hard ones: what configs share.

A model of 155,000 parameters is fine-tuned on puzzles with 3 to 6 blanks and
then learns from rewards to solve those with 9 to 12. `bgpo` is the run of
`configs/bgpo.py`, and other functions change it in place.

`base` is for the other methods. Model, warm start, puzzles, rollouts and
optimizer are those of `configs/bgpo.py:plain`; the file of a method sets the
update as its paper says. The learning rate is not the paper's, which is for 8
billion parameters. Presets: `sudoku_tiny`, `smoke` (every phase, learns
nothing), and those of `dlrl/presets/llada_8b.py`, with the papers' batches and
optimizers.
"""

import ml_collections

from dlrl import config
from dlrl.presets import llada_8b


def base(preset: str) -> ml_collections.ConfigDict:
  """The settings of `preset`, with the paper's BGPO as the method.

  Raises:
    ValueError: the preset is unknown.
  """
  if preset not in ("sudoku_tiny", "smoke"):
    return llada_8b.base(preset)
  cfg = bgpo()
  if preset == "smoke":
    smoke(cfg)
    cfg.learn.negative_weight = 1.0
  else:
    plain(cfg)
  return cfg


def bgpo() -> ml_collections.ConfigDict:
  """BGPO, with what a model of this size needs."""
  cfg = config.default()

  # XLA runs operations of this size on one core. Two devices use two cores and
  # take 60% of the time of one device.
  cfg.mesh.cpu_devices = 2

  # Fine-tune until easy puzzles are learned well: RL improves a policy that
  # knows the rules but fails on hard puzzles, not one that is half trained. At
  # equal numbers of puzzles, batches of 48 got further than batches of 128.
  cfg.sft.difficulty = (3, 6)
  cfg.sft.steps = 1200
  cfg.sft.batch_size = 48
  cfg.sft.optimizer.learning_rate = 6e-3
  cfg.sft.optimizer.warmup_steps = 20

  # Many puzzles with few completions each: all right completions of a puzzle
  # are the same grid, so more completions of it add little.
  cfg.steps = 400
  cfg.rollout.difficulty = (9, 12)
  cfg.rollout.prompts = 64
  cfg.rollout.group_size = 4
  # Two tokens per step: half the cost, and more groups with unequal rewards.
  cfg.rollout.sampler.steps = 8

  cfg.learn.n_mc = 16
  # Per-token scores: the paper's sums times 1/16, see dlrl/diffusion/elbo.py.
  cfg.learn.score_norm = "token"
  # Lowering an ELBO has no floor: with weight 1 this run falls from 33% to 0 in
  # 40 steps (benchmarks/results/learning_bgpo_undamped.png). With weight 0.1
  # and a rate of 2e-3, seed 0 reached 86.5% of 9-11 blanks in 240 steps; with
  # weight 0 and 2.5e-3 it reached 91.0%, in faster steps, because rows with
  # negative advantages need not be computed.
  cfg.learn.negative_weight = 0.0
  # Adam's first steps move every parameter by the full rate, however small its
  # gradient: without warm-up, a rate of 1e-3 cost an early version 18 points at
  # once. The decay averages out the noise of steps with few puzzles. After 25
  # steps seed 0 was at 46% with 1.5e-3, 49% with 2.5e-3, 37% with 4e-3.
  cfg.learn.optimizer.learning_rate = 2.5e-3
  cfg.learn.optimizer.warmup_steps = 10
  cfg.learn.optimizer.schedule = "cosine"
  # Small micro-batches, because those without any advantage are skipped.
  cfg.learn.micro_batch = 16

  cfg.eval.difficulty = (9, 12)
  cfg.eval.sampler.steps = 16
  cfg.eval.every = 20
  return cfg


def plain(cfg: ml_collections.ConfigDict) -> None:
  """The paper's objective with full negative advantages."""
  cfg.learn.negative_weight = 1.0
  cfg.learn.optimizer.learning_rate = 2e-4


def countdown(cfg: ml_collections.ConfigDict) -> None:
  """Another task: combine three digits to reach a target."""
  cfg.task.name = "countdown_digits"
  cfg.eval.split = "test"  # train and test contain all problems
  cfg.task.prompt_length = 8
  # With only + and -; a policy that knows just the format solves a quarter.
  for part in (cfg.sft, cfg.rollout, cfg.eval):
    part.difficulty = (1, 1)
  cfg.sft.gen_length = 12
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length = sampler.block_length = sampler.steps = 12
  cfg.rollout.sampler.steps = 6
  # Twice as many steps solve all train problems and leave nothing for RL.
  cfg.sft.steps = 700
  cfg.sft.batch_size = 96
  cfg.sft.optimizer.learning_rate = 3e-3
  cfg.learn.forward_process = "stratified"  # as in its published curves
  cfg.learn.optimizer.learning_rate = 1e-3
  cfg.steps = 240


def countdown4(cfg: ml_collections.ConfigDict) -> None:
  """Four digits, for a model of 1.2 million parameters."""
  countdown(cfg)
  cfg.task.name = "countdown_digits4"
  cfg.task.prompt_length = 12
  cfg.model.width, cfg.model.layers = 160, 4
  cfg.model.heads = cfg.model.kv_heads = 5
  cfg.model.head_dim, cfg.model.mlp_width = 32, 432
  # After 200 steps 7% of rollouts are right and a fifth of the groups disagree.
  cfg.sft.steps = 400
  cfg.sft.batch_size = 64
  cfg.learn.forward_process = "balanced"
  cfg.learn.n_mc = 8
  cfg.learn.optimizer.learning_rate = 5e-4


def smoke(cfg: ml_collections.ConfigDict) -> None:
  """Every phase in well under a minute; learns nothing."""
  cfg.steps = 4
  cfg.checkpoint_every = 2
  cfg.sft.steps = 20
  cfg.rollout.prompts = 8
  cfg.rollout.rewards = ("units",)  # gives an untrained model a gradient
  cfg.learn.n_mc = 4
  cfg.eval.size = 64
  cfg.eval.batch_size = 64
