"""Saves adapters in PEFT's format, under the published names of a family.

`adapter_model.safetensors` has, for every matrix of every layer,

    base_model.model.NAME.lora_A.weight  [rank, in]
    base_model.model.NAME.lora_B.weight  [out, rank]

where NAME is the module's name in the published model. `adapter_config.json`
has rank and alpha, which PEFT combines to alpha / rank as we do, and the names.

Source: PEFT's documentation, "PEFT checkpoint format".
"""

import collections
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from dlrl import config
from dlrl import strict
from dlrl.hub import snapshots
from dlrl.models import families
from dlrl.models import transformer
from dlrl.models.published import tensors as tensors_lib
from dlrl.runtime import published_files

PREFIX = "base_model.model."
# Our names to PEFT's; matrices are [out, in] there.
PARTS = {"a": "lora_A.weight", "b": "lora_B.weight"}


def save(
  adapter: Any, cfg: config.LoraConfig, source: str | pathlib.Path,
  out: str | pathlib.Path, family: families.Family | None = None,
) -> None:
  """Writes an adapter as a directory that `PeftModel.from_pretrained` loads.

  The directory gets its name only when it is complete.

  Args:
    adapter: nested dicts of arrays, all addressable by this process.
    cfg: rank and alpha of the adapter.
    source: the published checkpoint it was trained on, a directory or a name
      on the Hub; recorded as its base.
    out: the directory to write; must not exist.
    family: the user's; None: that of the source's model_type.

  Raises:
    FileExistsError: `out` exists.
    strict.ConfigError: the family of `source` is not supported, or several of
      the adapted matrices are one there.
  """
  out = pathlib.Path(out).expanduser()
  published, hf = families.read_config(source, family=family)
  model = transformer.build(published, hf["mask_token_id"])
  shapes = traverse_util.flatten_dict(
    jax.eval_shape(model.init, jax.random.key(0)), sep="/")
  pieces = tensors_lib.pieces(
    families.of(hf, family).names, {k: v.shape for k, v in shapes.items()})
  shared = collections.Counter(piece.name for piece in pieces)
  repo = snapshots.model(str(source))
  tensors, modules = {}, []
  for path, leaf in traverse_util.flatten_dict(adapter, sep="/").items():
    matrix, _, part = path.rpartition("/")
    arrays = np.asarray(leaf)
    for piece in pieces:
      if piece.path != matrix + "/kernel":
        continue
      strict.require(
        shared[piece.name] == 1, "lora.targets", cfg.targets,
        f"matches {matrix}, which is a part of {piece.name}: PEFT has adapters "
        "of whole matrices only; export the sum, without --adapter")
      module = piece.name.removesuffix(".weight")
      tensors[f"{PREFIX}{module}.{PARTS[part]}"] = np.ascontiguousarray(
        arrays[piece.index].T)
      modules.append(module)
  with published_files.directory(out) as partial:
    safetensors_numpy.save_file(
      tensors, partial / "adapter_model.safetensors",
      metadata={"format": "pt"})
    (partial / "adapter_config.json").write_text(json.dumps({
      "peft_type": "LORA", "task_type": None, "inference_mode": True,
      "base_model_name_or_path": repo.name if repo else str(source),
      "revision": (repo.revision or None) if repo else None, "r": cfg.rank,
      "lora_alpha": cfg.alpha, "lora_dropout": 0.0, "bias": "none",
      "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
      "modules_to_save": None,
      # Full names: in LLaDA, the suffix `ff_out` is the head's name as well.
      "target_modules": sorted(set(modules)),
    }, indent=2) + "\n", encoding="utf-8")
