"""Fingerprints of what an evaluation depends on besides its settings.

A path or a name can stay while what it stands for changes.
"""

import hashlib
import inspect
import json
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrl import tasks
from dlrl.run import setup as setup_lib
from dlrl.storage import array_checksums


def of(setup: setup_lib.Setup, params: Any, source: tasks.Examples,
       items: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Fingerprints by what they identify, each twelve hex digits.

  Args:
    setup: its reward functions and its model's arithmetic are identified.
    params: parameters of the policy.
    source: the examples of the split.
    items: `data.eval_rows` of `source`, int32: `position` [n], `prompt_ids`
      [n, p] and `prompt_length` [n].

  Returns:
    `parameters`; `prompts`, as tokens without padding; `examples`, with all
    their columns; `rewards` by their names in the config; and the model's
    `arithmetic`.
  """
  model = setup.cfg.model
  prompts = [ids[:length].tolist() for ids, length in zip(
    items["prompt_ids"], items["prompt_length"], strict=True)]
  examples = [source[i] for i in items["position"].tolist()]
  return {
    "parameters": array_checksums.fingerprint(params),
    "prompts": _digest(json.dumps(prompts).encode()),
    "examples": _digest(
      json.dumps(examples, sort_keys=True, default=repr).encode()),
    "rewards": {name: _source(reward) for name, reward in zip(
      setup.cfg.rollout.rewards, setup.rewards.values(), strict=True)},
    "arithmetic": f"{model.compute_dtype}, attention {model.attention}"}


def _source(function: Callable[..., Any]) -> str:
  """Identifies the module of a user's function; its imports are not seen."""
  module = inspect.getmodule(function) or inspect.getmodule(type(function))
  name, file = (
    getattr(module, key, None) or "" for key in ("__name__", "__file__"))
  if not file or name.partition(".")[0] == "dlrl":
    return name  # the task's version stands for what is ours
  return _digest(pathlib.Path(file).read_bytes())


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:12]
