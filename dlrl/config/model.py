"""The model, its adapters and the devices that hold it."""

import dataclasses

from dlrl.config.kinds import Restart
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
  """A mixture of experts in place of the MLP; see `dlrl.models.mlp`."""

  number: int = knob(
    0, "experts of a layer, a few of which compute each token; 0: an MLP",
    at_least=0)
  per_token: int = knob(8, "experts that compute a token", at_least=1)
  width: int = knob(0, "hidden size of an expert", at_least=0)
  shared_width: int = knob(
    0, "hidden size of the expert that computes every token; 0: none",
    at_least=0)
  dense_layers: int = knob(
    0, "the first layers, which have an MLP of mlp_width instead", at_least=0)
  router: str = knob(
    "softmax", "what scores an expert: softmax over all of them, as in SDAR; "
    "or sigmoid with a bias that only chooses, as in LLaDA2")
  normalized: bool = knob(
    True, "the weights of a token's experts are divided by their sum")
  scale: float = knob(
    1.0, "factor on the output of a token's experts, without the shared one",
    above=0)
  groups: int = knob(
    1, "groups of experts; a token's experts are in its best groups",
    at_least=1)
  groups_per_token: int = knob(
    1, "groups from which a token's experts are chosen", at_least=1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A bidirectional transformer; the defaults are a small LLaDA.

  With `pretrained`, its config.json overrides all of it but the dtypes, `remat`
  and `attention`.
  """

  vocab_size: int = knob(
    40, "rows of the embedding; without `pretrained`, a model with at least "
    "259 reads any text, byte by byte, and a smaller one 37 characters",
    at_least=1)
  width: int = knob(64, "size of the residual stream", at_least=1)
  layers: int = knob(3, "transformer blocks", at_least=1)
  heads: int = knob(4, "query heads", at_least=1)
  kv_heads: int = knob(
    4, "key and value heads; must divide heads", at_least=1)
  head_dim: int = knob(16, "size of a head; even, for RoPE", at_least=1)
  mlp_width: int = knob(176, "hidden size of the MLP", at_least=1)
  experts: ExpertsConfig = ExpertsConfig()
  rope_theta: float = knob(100.0, "base of the rotary frequencies", above=0)
  rotary_dim: int = knob(
    0, "first features of a head that are rotated, an even number; 0: all",
    at_least=0)
  norm_eps: float = knob(1e-5, "epsilon of RMSNorm", at_least=0)
  qkv_bias: bool = knob(False, "biases on q, k and v, as in Dream and Qwen2")
  qk_norm: bool = knob(False, "RMSNorm on q and k, as in Qwen3")
  tied: bool = knob(False, "the output head is the embedding")
  shifted: bool = knob(False, "outputs predict the next token, as in Dream")
  block_length: int = knob(
    0, "tokens per block of block-causal attention; 0: full", at_least=0)
  compute_dtype: str = knob("float32", "dtype of activations and matmuls")
  param_dtype: str = knob(
    "float32", "dtype of the parameters; in bfloat16 small updates are lost to "
    "rounding")
  remat: str = knob(
    "full", "what the backward pass recomputes instead of keeping",
    restart=Restart.ROUNDING)
  attention: str = knob(
    "auto", "attention kernel; auto picks by device", restart=Restart.ROUNDING)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters, trained instead of the parameters beneath them."""

  rank: int = knob(
    0, "rank of the adapters; 0: none, all parameters are trained", at_least=0)
  alpha: float = knob(
    16.0, "their output is scaled by alpha / rank", above=0)
  targets: str = knob(
    "layers/(attention|mlp)/.*",
    "regular expression for the adapted matrices of dlrl.models.lora.MATRICES")
  dtype: str = knob("float32", "dtype of the adapters")
  quantize: str = knob("none", "format of the frozen matrices beneath them")

  @property
  def scale(self) -> float:
    """The factor on the adapters' output; PEFT's `scaling`."""
    return self.alpha / self.rank


NO_LORA = LoraConfig()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; one of them may be -1, all that are left."""

  data: int = knob(
    -1, "replicas of the parameters", unit="devices", restart=Restart.ROUNDING)
  fsdp: int = knob(
    1, "parts of the parameters, gathered layer by layer", unit="devices",
    restart=Restart.ROUNDING)
  tensor: int = knob(
    1, "parts of each matrix product", unit="devices", restart=Restart.ROUNDING)
  expert: int = knob(
    1, "parts of the experts of a layer, which stay where they are: tokens "
    "travel to them", unit="devices", restart=Restart.ROUNDING)
  cpu_devices: int = knob(
    0, "without an accelerator, devices that the CPU is split into, over all "
    "processes; 0: one", at_least=0, restart=Restart.ROUNDING)
  gpu_memory: float = knob(
    0.9, "share of a GPU's memory that JAX takes as its pool; the rest is for "
    "CUDA, NCCL and cuDNN. XLA_CLIENT_MEM_FRACTION comes before it",
    above=0, at_most=1, restart=Restart.FREE)
