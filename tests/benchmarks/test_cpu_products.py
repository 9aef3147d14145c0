"""The products that an update is compared with are all that it computes."""

import jax
import jax.numpy as jnp
import networks

from benchmarks import cpu_products
from dlrl.costs.flops import flops
from dlrl.models import transformer


def test_the_products_have_the_flops_of_a_traced_gradient():
  model = transformer.build(networks.TINY, 2)
  params = networks.random_params(model)
  ids = jnp.zeros((3, 8), jnp.int32)
  traced = flops(jax.grad(
    lambda params: jnp.sum(jnp.sin(model.logits(params, ids)))), params)
  products = cpu_products.of_update(model.cfg, 3, 8, 3 * 8)
  assert cpu_products.flops(products) == traced


