"""RL losses: arrays in, loss per response out; no model, mesh or config.

Each method has two forms. The function with its name takes the scores or
log-probs of all n draws at once. `OBJECTIVES` maps its name to a function of
its settings that returns an `Objective`, from which
`dlrl.diffusion.montecarlo` computes the same loss one draw at a time.

Arguments of other shapes than those in a function's docstring raise
`strict.ArgumentError`, a ValueError, when the function is called or traced.
"""

from collections.abc import Callable

from dlrl.losses.advantages import ADVANTAGES
from dlrl.losses.advantages import centered
from dlrl.losses.advantages import damp_negative
from dlrl.losses.advantages import decoupled
from dlrl.losses.advantages import leave_one_out
from dlrl.losses.advantages import normalized
from dlrl.losses.advantages import softmax_weights
from dlrl.losses.bgpo import bgpo
from dlrl.losses.bgpo import bgpo_clipped
from dlrl.losses.bgpo import bgpo_clipped_objective
from dlrl.losses.bgpo import bgpo_objective
from dlrl.losses.bgpo import bgpo_statistic
from dlrl.losses.coupled_grpo import coupled_grpo
from dlrl.losses.coupled_grpo import coupled_grpo_objective
from dlrl.losses.diffu_grpo import diffu_grpo
from dlrl.losses.diffu_grpo import diffu_grpo_objective
from dlrl.losses.elbo_reinforce import elbo_reinforce
from dlrl.losses.elbo_reinforce import elbo_reinforce_objective
from dlrl.losses.espo import ebpo_objective
from dlrl.losses.espo import espo
from dlrl.losses.espo import espo_objective
from dlrl.losses.gdsd import gdsd
from dlrl.losses.gdsd import gdsd_objective
from dlrl.losses.objective import Joint
from dlrl.losses.objective import Objective
from dlrl.losses.objective import Responses
from dlrl.losses.objective import Scored
from dlrl.losses.objective import Separable
from dlrl.losses.ratio import kl
from dlrl.losses.spg import spg
from dlrl.losses.spg import spg_objective
from dlrl.losses.stable_drl import stable_drl
from dlrl.losses.stable_drl import stable_drl_objective
from dlrl.losses.unigrpo import trace_rl
from dlrl.losses.unigrpo import trace_rl_objective
from dlrl.losses.unigrpo import unigrpo
from dlrl.losses.unigrpo import unigrpo_objective
from dlrl.losses.vrpo_offline import vrpo_offline
from dlrl.losses.vrpo_offline import vrpo_offline_objective
from dlrl.losses.vrpo_offline import vrpo_offline_outer
from dlrl.losses.vrpo_online import vrpo_online
from dlrl.losses.vrpo_online import vrpo_online_objective
from dlrl.losses.wd1 import wd1

Rows = Responses  # what `Responses` was called before; stays importable

# name -> settings, all keyword arguments with defaults -> the objective
OBJECTIVES: dict[str, Callable[..., Objective]] = {
  "bgpo": bgpo_objective,
  "bgpo_clipped": bgpo_clipped_objective,
  "coupled_grpo": coupled_grpo_objective,
  "diffu_grpo": diffu_grpo_objective,
  "ebpo": ebpo_objective,
  "elbo_reinforce": elbo_reinforce_objective,
  "espo": espo_objective,
  "gdsd": gdsd_objective,
  "spg": spg_objective,
  "stable_drl": stable_drl_objective,
  "trace_rl": trace_rl_objective,
  "unigrpo": unigrpo_objective,
  "vrpo_offline": vrpo_offline_objective,
  "vrpo_online": vrpo_online_objective,
}

__all__ = [
  "ADVANTAGES",
  "OBJECTIVES",
  "Joint",
  "Objective",
  "Responses",
  "Rows",
  "Scored",
  "Separable",
  "bgpo",
  "bgpo_clipped",
  "bgpo_clipped_objective",
  "bgpo_objective",
  "bgpo_statistic",
  "centered",
  "coupled_grpo",
  "coupled_grpo_objective",
  "damp_negative",
  "decoupled",
  "diffu_grpo",
  "diffu_grpo_objective",
  "ebpo_objective",
  "elbo_reinforce",
  "elbo_reinforce_objective",
  "espo",
  "espo_objective",
  "gdsd",
  "gdsd_objective",
  "kl",
  "leave_one_out",
  "normalized",
  "softmax_weights",
  "spg",
  "spg_objective",
  "stable_drl",
  "stable_drl_objective",
  "trace_rl",
  "trace_rl_objective",
  "unigrpo",
  "unigrpo_objective",
  "vrpo_offline",
  "vrpo_offline_objective",
  "vrpo_offline_outer",
  "vrpo_online",
  "vrpo_online_objective",
  "wd1",
]
