"""A tiny checkpoint with tokenizer and chat template, as if downloaded."""

import json

import jax
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers

from dlrl.models import char_tokenizer
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import transformer

QWEN = {
  "model_type": "a2d-qwen3", "hidden_act": "silu", "hidden_size": 16,
  "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8,
  "num_hidden_layers": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
  "rope_theta": 100.0, "tie_word_embeddings": True, "vocab_size": 48,
  "mask_token_id": 41, "auto_map": {"AutoModel": "modeling.Model"}}


def write(root, seed=7):
  """Writes a checkpoint: characters as tokens, random weights."""
  bare = root / "bare"
  bare.mkdir()
  (bare / "config.json").write_text(json.dumps(QWEN))
  (bare / "modeling.py").write_text("raise RuntimeError('remote code')\n")
  table = tokenizers.Tokenizer(models.WordLevel(
    {c: i for i, c in enumerate(char_tokenizer.CharTokenizer().alphabet)},
    unk_token=" "))
  table.pre_tokenizer = pre_tokenizers.Split(
    tokenizers.Regex("."), behavior="isolated")
  table.decoder = decoders.Fuse()
  table.save(str(bare / "tokenizer.json"))
  (bare / "tokenizer_config.json").write_text(json.dumps({
    "eos_token": "<eos>", "chat_template":
      "{% for m in messages %}{{ m.content }}|{% endfor %}",
    "added_tokens_decoder": {
      str(i): {"content": text, "special": True, "lstrip": False,
               "rstrip": False}
      for i, text in ((37, "<eos>"), (38, "<a>"), (39, "<b>"), (40, "<c>"),
                      (41, "<mask>"))}}))
  cfg, hf = families.read_config(bare)
  model = transformer.build(cfg, hf["mask_token_id"])
  params = jax.jit(model.init)(jax.random.key(seed))
  out = root / "model"
  hf_checkpoints.save(params, bare, out)
  return out
