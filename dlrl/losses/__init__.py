"""Objectives: arrays in, loss per response out; no model, mesh or config.

`STATISTICS` holds the separable ones by name: (score, old_score, advantage),
each [b] and of one draw, to that draw's term, whose mean over draws and
responses is maximised.
"""

from dlrl.losses.advantages import damp_negative
from dlrl.losses.advantages import normalized
from dlrl.losses.bgpo import bgpo
from dlrl.losses.bgpo import bgpo_statistic
from dlrl.losses.elbo_reinforce import elbo_reinforce
from dlrl.losses.elbo_reinforce import elbo_reinforce_statistic
from dlrl.losses.vrpo_online import vrpo_online

STATISTICS = {
  "bgpo": bgpo_statistic,
  "elbo_reinforce": elbo_reinforce_statistic,
}

__all__ = [
  "STATISTICS",
  "bgpo",
  "bgpo_statistic",
  "damp_negative",
  "elbo_reinforce",
  "elbo_reinforce_statistic",
  "normalized",
  "vrpo_online",
]
