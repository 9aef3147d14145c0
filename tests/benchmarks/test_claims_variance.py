"""`benchmarks.claims.variance`: against components that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from benchmarks.claims import variance
from benchmarks.claims import variance_page
from benchmarks.claims import variance_run
from dlrl import update
from dlrl.run import setup as setup_lib


def squares(gradients):
  sums = variance.Sums()
  for one in gradients:
    sums.add(one)
  return sums.squares()


def nested(rng, prompts, completions, draws, stds, d=40):
  """Gradients [p, c, d, parameters] of a nested model with a mean of 0.5."""
  shape = prompts, completions, draws
  return 0.5 + sum(
    std * rng.standard_normal((*shape[:level], *(1,) * (3 - level), d))
    for level, std in zip((1, 2, 3), stds, strict=True))


def test_components_that_are_known_are_found():
  gradients = nested(np.random.default_rng(0), 2000, 3, 2, (2.0, 1.0, 3.0))
  found = squares(gradients.astype(np.float32)).variances()
  wanted = {"prompts": 4.0, "completions": 1.0, "draws": 9.0, "signal": 0.25}
  assert found == pytest.approx({k: 40 * v for k, v in wanted.items()},
                                rel=0.06)
  assert variance.shares(found) == pytest.approx(
    {"prompts": 4 / 14, "completions": 1 / 14, "draws": 9 / 14}, rel=0.06)


def test_estimates_are_unbiased_with_few_of_everything():
  rng = np.random.default_rng(1)
  found = [squares(nested(rng, 3, 2, 2, (1.0, 2.0, 1.5), d=5)).variances()
           for _ in range(3000)]
  means = {k: np.mean([one[k] for one in found]) for k in found[0]}
  errors = {k: np.std([one[k] for one in found]) / 3000**0.5 for k in means}
  for name, wanted in {"prompts": 1.0, "completions": 4.0, "draws": 2.25,
                       "signal": 0.25}.items():
    assert abs(means[name] - 5 * wanted) < 4 * errors[name], name


def test_the_parts_are_those_of_the_variance_of_a_mean():
  # Of a step's gradient: a mean over prompts, each with one set of both.
  rng = np.random.default_rng(2)
  stds = 1.0, 2.0, 1.5
  steps = nested(rng, 8 * 4000, 1, 1, stds, d=2).reshape(4000, 8, 2).mean(1)
  parts = squares(nested(rng, 4000, 2, 2, stds, d=2)).variances()
  assert steps.var(0).sum() == pytest.approx(
    sum(parts[part] for part in variance.PARTS) / 8, rel=0.05)


def test_intervals_hold_the_share_and_narrow_with_prompts():
  rng = np.random.default_rng(3)
  widths = []
  for prompts in (40, 160):
    found = squares(nested(rng, prompts, 2, 2, (1.0, 1.0, 2.0)))
    low, high = found.intervals()["draws"]
    assert low < 4 / 6 < high
    widths.append(high - low)
  assert widths[1] < 0.7 * widths[0]


def test_ratios_of_variances_are_paired_by_prompt():
  rng = np.random.default_rng(4)
  gradients = nested(rng, 300, 2, 2, (2.0, 1.0, 3.0), d=20)
  # Draws that vary half as much, about the same means.
  means = gradients.mean(2, keepdims=True)
  other = squares(gradients)
  calm = squares(means + 0.5 * (gradients - means))
  assert variance.ratio(calm, other, ["draws"]) == pytest.approx((0.25,) * 3)
  mean, low, high = variance.ratio(calm, other)
  # The sets' means still vary by 1 + 9 / 2, of which 9 / 8 are now the draws':
  # 4 + 4.375 + 2.25 of 4 + 1 + 9.
  assert mean == pytest.approx(10.625 / 14, rel=0.03)
  assert low < mean < high and high - low < 0.1
  assert variance.ratio(other, other) == (1.0, 1.0, 1.0)


def test_intervals_of_ratios_are_those_of_a_ratio_of_means():
  rng = np.random.default_rng(6)
  gradients = nested(rng, 200, 2, 2, (1.0, 1.0, 1.0), d=20)
  means = gradients.mean(2, keepdims=True)
  scales = rng.uniform(0.2, 1.0, (200, 1, 1, 1))
  one, other = (squares(means + scale * (gradients - means))
                for scale in (scales, 1.0))
  mean, low, high = variance.ratio(one, other, ["draws"])
  a, b = one.within_draws, other.within_draws
  # The linearised variance of sum(a) / sum(b), by Cochran; of its logarithm.
  off = a - a.sum() / b.sum() * b
  error = np.sqrt(200 / 199 * np.sum(off**2)) / a.sum()
  assert mean == pytest.approx(a.sum() / b.sum())
  assert np.log([low / mean, high / mean]) == pytest.approx(
    [-1.972 * error, 1.972 * error], rel=0.1)  # 97.5% of t with 199


def test_a_single_prompt_has_no_variance():
  with pytest.raises(ValueError, match="1 prompts"):
    squares(np.zeros((1, 2, 2, 3)))


def parts(prompts, completions, draws):
  return {"prompts": prompts, "completions": completions, "draws": draws}


def test_the_best_split_weighs_variance_and_cost():
  # sqrt(draws / rest x rollout / draw) = sqrt(8 / 2 x 4 / 1) = 4 draws.
  by_n = {n: parts(1.0, 1.0, 8.0 / n) for n in (1, 2, 4, 8, 16)}
  assert variance.best(by_n, rollout=4.0, draw=1.0) == 4
  assert variance.best(by_n, rollout=64.0, draw=1.0) == 16
  assert variance.best(by_n, rollout=0.0, draw=1.0) == 1
  # Unless draws together do better than one after the other.
  by_n[2]["draws"] = 0.0
  assert variance.best(by_n, rollout=0.0, draw=1.0) == 2


def entries():
  return [{"step": step, "process": process, "n": n,
           "variances": parts(1.0, 1.0, share / n),
           "intervals": {part: [0.1, 0.9] for part in variance.PARTS}}
          for step in (0, 80)
          for process, share in (("balanced", 2.0), ("continuous", 20.0))
          for n in (1, 4, 16)]


def test_the_page_says_where_draws_matter_no_more():
  lines = variance_page.section(entries())
  assert "| 0 | `balanced` | 1 | 25 [10, 90] | 25 [10, 90] | 50 [10, 90] |" in (
    lines)
  # 2 / 4 of 2.5 is a fifth; 20 / 16 of 3.25 is more than a quarter.
  assert "| 0 | `balanced` | 4 | 1 (1) |" in lines
  assert "| 80 | `continuous` | more than 16 | 4 (1) |" in lines
  assert "Not run yet." in variance_page.section(None)


def test_the_figure_has_a_panel_per_step():
  panels = variance_page.draw(entries()).axes
  assert [ax.get_title() for ax in panels] == ["step 0", "step 80"]
  assert [len(ax.containers) for ax in panels] == [2, 2]
  points = panels[0].containers[1].lines[0].get_ydata()
  np.testing.assert_allclose(points, [2000 / 22, 500 / 7, 125 / 3.25])


# The measurement.


@pytest.fixture(scope="module")
def setup(sudoku_dir):
  cfg = runs.tiny(sudoku_dir, rollout__prompts=4, rollout__group_size=2,
                  rollout__rewards=("solved",))
  return setup_lib.make(cfg)


@pytest.mark.slow
def test_prompts_gradients_are_the_parts_of_the_batchs(
    setup, monkeypatch, unoptimized):
  monkeypatch.setattr(variance_run, "PROMPTS", 4)
  with jax.set_mesh(setup.mesh):
    params = setup.init_params()
    batch = variance_run.completions(setup, params, 0)
    assert batch.completion.shape == (8, 16)
    np.testing.assert_array_equal(batch.prompt[::2], batch.prompt[1::2])
    assert len(np.unique(batch.prompt[::2], axis=0)) == 4
    # Nothing is solved by chance.
    assert not np.any(batch.advantage)
    batch = dataclasses.replace(
      batch, advantage=jnp.tile(jnp.array([1.0, -1.0]), 4))
    each = np.stack([variance_run.gradients_of(setup, "balanced", 2)(
      params, jax.tree.map(lambda x, i=i: x[2 * i:2 * i + 2], batch))
      for i in range(4)])
    keys = jax.vmap(jax.random.fold_in, (0, None))(batch.keys, 1)
    learn = dataclasses.replace(
      setup.cfg.learn, n_mc=2, forward_process="balanced", micro_batch=8)
    _, whole = jax.jit(lambda batch: update.batch_grads(
      setup.model, learn, params, batch, 2))(
        dataclasses.replace(batch, keys=keys))
  whole = np.concatenate([g.ravel() for g in jax.tree.leaves(whole)])
  np.testing.assert_allclose(each[:, 1].mean(0), whole, atol=1e-6)
  assert not np.allclose(each[:, 0], each[:, 1])  # other draws


@pytest.mark.slow
def test_the_clues_of_a_puzzle_are_fixed_and_its_blanks_are_free(
    setup, monkeypatch, unoptimized):
  monkeypatch.setattr(variance_run, "PROMPTS", 4)
  free = variance_run.blanks(setup)
  rows, asked = variance_run._asked(setup)
  assert len(rows["position"]) == 4 and len(asked) == 8
  for mask, example in zip(free, asked, strict=True):
    np.testing.assert_array_equal(
      mask, [digit == "0" for digit in example["puzzle"]])
  gradients = variance_run.gradients_of(setup, "truncated", 1, least=1.0)
  with jax.set_mesh(setup.mesh):
    params = setup.init_params()
    batch = dataclasses.replace(
      variance_run.completions(setup, params, 0),
      advantage=jnp.tile(jnp.array([1.0, 0.0]), 4))
    first = jax.tree.map(lambda x: x[:2], batch)
    whole, fixed = (gradients(params, dataclasses.replace(
      first, maskable=jnp.asarray(mask[:2]))) for mask in (free | True, free))
    other = gradients(params, dataclasses.replace(
      first, maskable=jnp.asarray(free[:2]), completion=jnp.where(
        free[:2], first.completion, first.completion % 4 + 4)))
  # With all noise there is nothing left to chance, but what is masked matters.
  np.testing.assert_allclose(fixed[0], fixed[1], atol=1e-7)
  assert not np.allclose(whole, fixed) and not np.allclose(fixed, other)


def test_pruned_variances_are_relative_to_those_without(
    setup, monkeypatch, tmp_path):
  gains = {("balanced", False): 4.0, ("balanced", True): 2.0,
           ("truncated", False): 3.0, ("truncated", True): 1.0}
  rng = np.random.default_rng(5)
  parts = nested(rng, 40, 2, 2, (1.0, 1.0, 1.0))
  monkeypatch.setattr(variance_run, "PROMPTS", 4)

  def split(process, params, sets, group):
    assert group == setup.cfg.rollout.group_size
    fixed = not np.all(sets[0].maskable)
    return squares(parts * gains[process, fixed] ** 0.5)

  @dataclasses.dataclass
  class Batch:
    maskable: np.ndarray

  monkeypatch.setattr(variance_run, "split", split)
  monkeypatch.setattr(variance_run, "gradients_of",
                      lambda setup, process, n, **arguments: process)
  monkeypatch.setattr(variance_run, "_policies", lambda workdirs: (
    setup, [(None, [Batch(np.ones((8, 16), bool))])] * 3))
  found = variance_run.measure_pruned(tmp_path)
  assert [one["step"] for one in found] == [0] * 6 + [80] * 6 + [160] * 6
  for one in found:
    ratio = {"template": 0.5, "truncated draws": 0.75,
             "template and truncated draws": 0.25}[one["pruning"]]
    assert one["whole"] == pytest.approx((ratio,) * 3)
    assert one["draws"] == pytest.approx((ratio,) * 3)
    assert one["signal"] == pytest.approx(ratio)
  assert {one["n"] for one in found} == {1, 8}


def test_right_completions_have_an_advantage(setup, monkeypatch, unoptimized):
  monkeypatch.setattr(variance_run, "PROMPTS", 4)

  def solutions(model, params, prompt, *args, **kwargs):
    # Of the first two prompts, the first completion of each is right.
    source = variance_run.rollout.examples(setup)
    found = np.zeros((8, 16), np.int32)
    rows = variance_run.data.eval_rows(
      source, setup.tokenizer, setup.prompt, items=4,
      prompt_length=prompt.shape[1])
    for i in (0, 1):
      solution = source[int(rows["position"][i])]["solution"]
      found[2 * i] = setup.tokenizer.encode(solution)
    return type("Decoded", (), {"completion": jnp.asarray(found)})

  monkeypatch.setattr(variance_run.denoise, "decode", solutions)
  with jax.set_mesh(setup.mesh):
    batch = variance_run.completions(setup, None, 0)
  # Failures have no weight in this config.
  assert setup.cfg.learn.negative_weight == 0
  np.testing.assert_allclose(
    np.sign(batch.advantage), [1, 0, 1, 0, 0, 0, 0, 0])
