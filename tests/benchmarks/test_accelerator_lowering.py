"""All programs of `benchmarks.accelerator` lower for CUDA at their real size.

No GPU is needed: shapes are abstract, and cuDNN's version is made up.
"""

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from benchmarks.accelerator import arrays
from benchmarks.accelerator import blocks
from benchmarks.accelerator import ceilings
from benchmarks.accelerator import kernels
from benchmarks.accelerator import rollouts
from benchmarks.accelerator import scale as scale_lib
from benchmarks.accelerator import steps
from benchmarks.accelerator import updates
from dlrl.runtime import mesh as mesh_lib

GIB = 2**30
FMHA, BACKWARD = "@__cudnn$fmhaSoftmax(", "@__cudnn$fmhaSoftmaxBackward("
LAYER = "x4096x12288xbf16"  # LLaDA-8B's matrices, all layers in one array


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(mesh_lib, "platform", lambda: "gpu")


def texts(module, count=1, limit=71 * GIB):
  scale = scale_lib.Scale(tuple(jax.devices()[:count]), "gpu", limit)
  return {name: program.lower(lowering_platforms=("cuda",)).as_text()
          for name, program in module.programs(scale).items()}


def test_ceilings():
  found = texts(ceilings)
  assert found[ceilings.CHAIN].count("stablehlo.dot_general") == 10
  assert "tensor<536870912xbf16>" in found[ceilings.COPY]


def test_every_kernel_that_gpus_have():
  found = texts(kernels)
  assert len(found) == 2 * len(kernels.CASES) + 1
  for name, text in found.items():
    assert (FMHA in text) == ("cudnn" in name)
    assert (BACKWARD in text) == ("cudnn" in name and "part" not in name)
  assert any("126464" in text for text in found.values())


@pytest.mark.slow
def test_samplers_and_updates_of_a_small_model():
  found = texts(steps)
  assert found.keys() == {*steps.MODES, steps.UPDATE, steps.BITS}
  # Compared in fp32, which cuDNN does not have, and as a run computes.
  assert [name for name in found if BACKWARD in found[name]] == [steps.BITS]


@pytest.mark.slow
@pytest.mark.parametrize("count, trained", [(1, "adapters"), (8, "all")])
def test_updates_at_the_size_of_8b(count, trained):
  found = texts(updates, count)
  assert list(found) == [updates.name_of(n) for n in updates.DRAWS]
  for text in found.values():
    assert BACKWARD in text and f"tensor<32{LAYER}>" in text.replace(
      "xf32>", "xbf16>")
    assert ("x4096x128xf32>" in text) == (trained == "adapters")


@pytest.mark.slow
def test_rollouts_of_llada_8b_by_mode():
  found = texts(rollouts)
  assert len(found) == 4
  assert all(FMHA in text and f"tensor<32{LAYER}>" in text
             for text in found.values())


def test_weights_of_8b_are_made_in_their_dtype():
  scale = scale_lib.Scale(tuple(jax.devices()[:1]), "gpu", 71 * GIB)
  abstract = scale_lib.llada(scale, 8, {}).abstract_params()
  text = arrays.make_weights(abstract).trace().lower(
    lowering_platforms=("cuda",)).as_text()
  assert f"tensor<32{LAYER}>" in text
  # Drawn in sixteen parts; not even a part is ever in fp32.
  assert "tensor<2x4096x12288xbf16>" in text
  assert "x4096x12288xf32>" not in text


@pytest.mark.slow
def test_rollouts_of_sdar_4b():
  (text,) = texts(blocks).values()
  assert "tensor<36x2560x9728xbf16>" in text and "tensor<128x" in text


@pytest.mark.parametrize("limit, layers, whole", [
  (None, 32, False), (71 * GIB, 32, False), (21 * GIB, 16, False),
  (15 * GIB, 8, False), (160 * GIB, 32, True)])
def test_what_fits_a_device_is_measured(limit, layers, whole):
  scale = scale_lib.Scale(tuple(jax.devices()[:1]), "gpu", limit)
  changes = scale_lib.whole_or_adapters(scale)
  cfg = scale_lib.llada(scale, 8, changes).cfg
  assert (cfg.model.layers, not cfg.lora.rank) == (layers, whole)
