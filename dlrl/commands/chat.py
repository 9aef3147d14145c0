"""Flags of `dlrl chat`."""

from absl import flags


def define(values: flags.FlagValues) -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "model", None, "directory of a checkpoint, or its name on the Hub, "
    "ORG/NAME[@REVISION]", values, required=True)
  flags.DEFINE_string(
    "family", "", "model family of your own as package.module:name; default: "
    "by the model_type in config.json", values)
  flags.DEFINE_string(
    "prompt", None, "one question; without it, questions are read line by line",
    values)
  flags.DEFINE_string(
    "html", None, "page to write, replays the last answer", values)
  flags.DEFINE_integer(
    "gen_length", 128, "tokens per answer", flag_values=values)
  flags.DEFINE_integer(
    "steps", None, "denoising steps; default one per token",
    flag_values=values)
  flags.DEFINE_integer(
    "block_length", None, "tokens per block; blocks are decoded left to right; "
    "default 32, or that of a block-diffusion model", flag_values=values)
  flags.DEFINE_float(
    "temperature", 0.0, "softmax temperature; 0 is greedy", flag_values=values)
  flags.DEFINE_integer(
    "top_k", 0, "sample from this number of likeliest tokens; 0: from all",
    flag_values=values)
  flags.DEFINE_float(
    "top_p", 1.0, "sample from the likeliest tokens with this total "
    "probability", flag_values=values)
  flags.DEFINE_float(
    "cfg_scale", 0.0, "classifier-free guidance; 0 turns it off",
    flag_values=values)
  flags.DEFINE_enum(
    "remasking", "low_confidence",
    ["low_confidence", "random", "margin", "entropy", "left_to_right"],
    "which predictions are committed first", values)
  flags.DEFINE_float(
    "threshold", 0.0, "commit every token of at least this probability; 0: a "
    "fixed number per step", flag_values=values)
  flags.DEFINE_float(
    "edit_threshold", 1.0, "with blocks, replace committed tokens whose "
    "prediction differs with more than this probability; 1: none",
    flag_values=values)
  flags.DEFINE_integer(
    "max_post_edit", 16, "most passes of a block for edits alone",
    flag_values=values)
  flags.DEFINE_float(
    "factor", 0.0, "commit by Fast-dLLM's factor; 0: a fixed number per step",
    flag_values=values)
  flags.DEFINE_enum(
    "cache", "none", ["none", "prefix", "dual"],
    "keys and values reused while a block is decoded", values)
  flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"],
    "of parameters and computation", values)
  flags.DEFINE_integer("seed", 0, "random seed", flag_values=values)
