"""Adapters as PEFT stores them, on the published names of a family.

`adapter_model.safetensors` has, for every matrix of every layer,

    base_model.model.NAME.lora_A.weight  [rank, in]
    base_model.model.NAME.lora_B.weight  [out, rank]

NAME being the module's in the published model; `adapter_config.json` has rank
and alpha, whose quotient is PEFT's factor as it is ours, and the modules.

Source: PEFT's documentation, "PEFT checkpoint format".
"""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from dlrl import config
from dlrl.models import families

PREFIX = "base_model.model."
# Ours to PEFT's; a matrix is [out, in] there.
PARTS = {"a": "lora_A.weight", "b": "lora_B.weight"}


def save(
  adapter: Any, cfg: config.LoraConfig, source: str | pathlib.Path,
  out: str | pathlib.Path,
) -> None:
  """Writes an adapter as a directory that `PeftModel.from_pretrained` loads.

  It appears under its name when complete.

  Args:
    adapter: nested dicts of arrays, all of them addressable.
    cfg: its rank and alpha.
    source: the published directory it is for; written down as such.
    out: must not exist.

  Raises:
    FileExistsError: `out` exists.
    strict.ConfigError: `source` is of no known family.
  """
  out = pathlib.Path(out).expanduser()
  if out.exists():
    raise FileExistsError(f"{out} exists; choose another name")
  _, hf = families.read_config(source)
  names = families.FAMILIES[hf["model_type"]].names
  tensors, modules = {}, []
  for path, leaf in traverse_util.flatten_dict(adapter, sep="/").items():
    matrix, _, part = path.rpartition("/")
    for layer, array in enumerate(np.asarray(leaf)):
      module = names[matrix + "/kernel"].format(layer).removesuffix(".weight")
      tensors[f"{PREFIX}{module}.{PARTS[part]}"] = np.ascontiguousarray(array.T)
      modules.append(module)
  partial = out.with_name(out.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  safetensors_numpy.save_file(
    tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
  (partial / "adapter_config.json").write_text(json.dumps({
    "peft_type": "LORA", "task_type": None, "inference_mode": True,
    "base_model_name_or_path": str(source), "r": cfg.rank,
    "lora_alpha": cfg.alpha, "lora_dropout": 0.0, "bias": "none",
    "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
    "modules_to_save": None,
    # Whole names: LLaDA's head is called as a matrix of its layers is.
    "target_modules": sorted(set(modules)),
  }, indent=2) + "\n")
  partial.rename(out)
