"""What cuDNN's attention accepts and refuses, without a GPU.

Lowering for CUDA needs none, only cuDNN's version, which is then unknown.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs import bgpo
from dlrl import optimizer
from dlrl import rollout
from dlrl import train
from dlrl import validate
from dlrl.models import attention
from dlrl.models import xla_attention
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib

pytestmark = pytest.mark.usefixtures("unoptimized")

H, G = 4, 2
odd_and_even = pytest.mark.parametrize(
  ("t", "s"), [(12, 12), (13, 13), (12, 13), (13, 12), (1, 13)])


@pytest.fixture
def version(monkeypatch):
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)


def lowered(fn, *args, gradient=True, platform="cuda"):
  """The program of the gradients to floating arguments, or of the sum."""
  where = tuple(i for i, x in enumerate(args)
                if jnp.issubdtype(x.dtype, jnp.floating))

  def total(*args):
    return jnp.sum(fn(*args).astype(jnp.float32))

  program = jax.grad(total, where) if gradient else total
  return jax.jit(program).trace(*args).lower(
    lowering_platforms=(platform,)).as_text()


def rows(t, s, head_dim=64, dtype="bfloat16"):
  """Shapes of (q, k, v, lengths)."""
  return (*(jax.ShapeDtypeStruct((2, n, heads, head_dim), dtype)
            for n, heads in ((t, H), (s, G), (s, G))),
          jax.ShapeDtypeStruct((2,), "int32"))


@odd_and_even
def test_rows_of_odd_length_have_cudnn_in_both_passes(version, t, s):
  text = lowered(lambda *args: attention.bidirectional(
    *args, backend="cudnn"), *rows(t, s))
  assert text.count("custom_call @__cudnn$fmhaSoftmax(") == 1
  assert text.count("custom_call @__cudnn$fmhaSoftmaxBackward(") == 1
  # Of an even number of columns, the least that there can be.
  assert f"tensor<2x{t + t % 2}x{H}x64xbf16>" in text
  assert f"tensor<2x{s + s % 2}x{G}x64xbf16>" in text


@odd_and_even
def test_odd_lengths_change_no_value_and_no_gradient(monkeypatch, t, s):
  kernel = jax.nn.dot_product_attention

  def even(q, k, v, *, implementation, **options):
    assert implementation == "cudnn"
    assert q.shape[1] % 2 == k.shape[1] % 2 == v.shape[1] % 2 == 0
    return kernel(q, k, v, implementation="xla", **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", even)
  rng = np.random.default_rng(0)
  q, k, v, weight = (
    jnp.asarray(rng.normal(size=(2, n, heads, 8)), jnp.float32)
    for n, heads in ((t, H), (s, G), (s, G), (t, H)))
  lengths = jnp.array([s, 5])
  seen = (jnp.arange(s)[None] < lengths[:, None])[:, None]

  def run(fn):
    return jax.jit(jax.value_and_grad(
      lambda *args: (lambda out: (jnp.sum(out * weight), out))(fn(*args)),
      (0, 1, 2), has_aux=True))(q, k, v)

  got, want = run(lambda *args: attention.bidirectional(
    *args, lengths, backend="cudnn")), run(
      lambda *args: xla_attention.attend(*args, seen))
  assert got[0][1].shape == (2, t, H, 8)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


SIZES = (20, 64, 128, 136)
DTYPES = ("bfloat16", "float16", "float32")


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("platform, backend", [
  ("cuda", "cudnn"), ("cuda", "xla"), ("tpu", "splash")])
def test_a_backend_takes_what_its_limits_allow(
    version, platform, backend, gradient):
  allowed = {}
  for head_dim, dtype in itertools.product(SIZES, DTYPES):
    args = rows(13, 13, head_dim, dtype)
    allowed[head_dim, dtype] = not attention.limits(
      backend, *args[:2], platform="gpu" if platform == "cuda" else "tpu",
      tensor=1)
    if allowed[head_dim, dtype]:
      lowered(lambda *args: attention.bidirectional(*args, backend=backend),
              *args, gradient=gradient, platform=platform)
  assert sum(allowed.values()) == {
    "xla": 12, "cudnn": 4, "splash": 3}[backend]


@pytest.mark.parametrize("head_dim, dtype, message", [
  (20, "bfloat16", "head dim"), (136, "bfloat16", "head dim"),
  (64, "float32", "must be fp16/bf16")])
def test_what_the_limits_refuse_cudnn_does_not_take(
    version, head_dim, dtype, message):
  args = rows(12, 12, head_dim, dtype)
  assert attention.limits("cudnn", *args[:2], platform="gpu", tensor=1)
  with pytest.raises(NotImplementedError, match=message):
    lowered(lambda *args: attention.bidirectional(*args, backend="cudnn"),
            *args)


@pytest.mark.parametrize("backend", ["cudnn", "xla"])
@pytest.mark.parametrize("t, s, block", [(13, 27, 1), (12, 27, 4)])
def test_masks_of_blocks_of_odd_length_are_taken(version, backend, t, s, block):
  q, k = (jax.ShapeDtypeStruct((2, t, n, 64), "bfloat16") for n in (H, G))
  more = jax.ShapeDtypeStruct((2, s, G, 64), "bfloat16")
  lengths, start = jnp.array([t, 5]), jnp.zeros(2, jnp.int32)
  clean = lowered(
    lambda *args: attention.clean(
      *args, lengths, start, block_length=block, backend=backend),
    q, more, more)
  blocks = attention.noisy_blocks(
    jnp.tile(jnp.arange(t)[None], (2, 1)), lengths, block)
  noisy = lowered(
    lambda *args: attention.noisy(*args, blocks, backend=backend),
    q, k, k, more, more)
  for text in (clean, noisy):
    assert ("fmhaScaleBiasSoftmaxBackward" in text) == (backend == "cudnn")


@pytest.mark.parametrize("prompt_length", [31, 32])
def test_auto_takes_cudnn_for_runs_of_any_length(
    version, monkeypatch, prompt_length):
  monkeypatch.setattr(mesh_lib, "platform", lambda: "gpu")
  cfg = bgpo.get_config("smoke")
  cfg.model.compute_dtype = "bfloat16"
  cfg.model.layers = 1
  cfg.sft.steps, cfg.task.prompt_length = 0, prompt_length
  cfg = validate.from_dict(cfg)
  setup = setup_lib.make(cfg, jax.devices()[:1])
  state = train_state.abstract_rl(setup)
  with jax.set_mesh(setup.mesh):
    programs = train.make_programs(setup, optimizer.for_rl(cfg), state)
    args = (state, *rollout.input_shapes(setup))
    texts = [program.trace(*of).lower(lowering_platforms=("cuda",)).as_text()
             for program, of in zip(
               programs, (args, train.learn_shapes(setup, programs[0], args)),
               strict=True)]
  assert all("@__cudnn$fmhaSoftmax(" in text for text in texts)
  assert "@__cudnn$fmhaSoftmaxBackward(" in texts[1]


def test_keys_and_values_are_selected_in_backward_passes_only(monkeypatch):
  """In fp32, of which a CPU's programs are as simple as a GPU's of bf16."""
  # In the place of cuDNN: its gradients of padding are not zero.
  monkeypatch.setattr(
    jax.nn, "dot_product_attention",
    lambda q, k, v, **_: q * jnp.mean(jnp.sin(k + v)))

  def total(q, k, v, lengths):
    return jnp.sum(attention.bidirectional(
      q, k, v, lengths, backend="cudnn"))

  shapes = rows(12, 14, dtype="float32")
  text = jax.jit(total).lower(*shapes).compile().as_text()
  assert "sine(" in text
  assert not re.search(rf"\[2,14,{G},64\]\S* select\(", text)
  q, k, v, _ = (jnp.ones(x.shape, x.dtype) for x in shapes)
  live = np.arange(14)[None] < np.array([[14], [9]])
  for grad in jax.jit(jax.grad(total, (1, 2)))(q, k, v, jnp.array([14, 9])):
    np.testing.assert_array_equal(np.abs(grad).max((2, 3)) > 0, live)
