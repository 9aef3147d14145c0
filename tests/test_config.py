import dataclasses

import ml_collections
import pytest

from configs import bgpo
from configs import cj_grpo
from configs import coupled_grpo
from configs import diffu_grpo
from configs import ebpo
from configs import elbo_reinforce
from configs import espo
from configs import fork_grpo
from configs import gdsd
from configs import just_grpo
from configs import sft
from configs import spg
from configs import stable_drl
from configs import stp
from configs import trace_rl
from configs import unigrpo
from configs import vrpo_offline
from configs import vrpo_online
from configs import wd1
from dlrl import config
from dlrl import strict
from dlrl import validate
from dlrl.presets import sudoku_tiny
from dlrl.strict import nested

METHODS = [cj_grpo, coupled_grpo, diffu_grpo, ebpo, elbo_reinforce, espo,
           fork_grpo, gdsd, just_grpo, spg, stable_drl, trace_rl, unigrpo,
           vrpo_offline, vrpo_online, wd1]
PRESETS = [(bgpo, ""), (bgpo, "plain"), (bgpo, "smoke"), (sft, ""),
           (sft, "smoke"), (stp, ""), (stp, "countdown"),
           (stp, "smoke"), (bgpo, "countdown"), (bgpo, "countdown4"),
           *((m, p) for m in METHODS for p in ("sudoku_tiny", "smoke"))]


@pytest.mark.parametrize(("module", "preset"), PRESETS)
def test_every_preset_is_valid_and_named_in_its_docstring(module, preset):
  cfg = validate.from_dict(module.get_config(preset))
  assert isinstance(cfg, config.Config)
  page = sudoku_tiny if module in METHODS else module
  assert preset in page.__doc__


@pytest.mark.parametrize("module", [bgpo, sft, stp, *METHODS])
def test_an_unknown_preset_is_refused_and_the_known_ones_are_named(module):
  with pytest.raises(ValueError, match="smoke"):
    module.get_config("smok")


def test_the_defaults_survive_the_way_to_a_config_dict_and_back():
  assert validate.from_dict(config.default()) == config.Config()


def changed(**changes):
  values = config.default().to_dict()
  for path, value in changes.items():
    *sections, key = path.split("__")
    section = values
    for name in sections:
      section = section[name]
    section[key] = value
  return ml_collections.ConfigDict(values)


BAD = {
  "rollout.group_size": dict(rollout__group_size=1),
  "rollout.sampler.block_length": dict(rollout__sampler__block_length=5),
  "eval.sampler.block_length": dict(eval__sampler__block_length=3),
  "rollout.sampler.steps": dict(
    rollout__sampler__block_length=4, rollout__sampler__steps=6),
  "eval.sampler.steps": dict(eval__sampler__steps=17),
  "rollout.sampler.temperature": dict(rollout__sampler__temperature=0.0),
  "learn.micro_batch": dict(learn__micro_batch=48),
  "learn.updates_per_rollout": dict(learn__updates_per_rollout=7),
  "learn.negative_weight": dict(learn__negative_weight=1.5),
  "learn.loss": dict(learn__loss="bpgo"),
  "learn.n_mc": dict(learn__n_mc=0),
  "init_from": dict(init_from="s3://bucket/run"),
  "pretrained": dict(pretrained="gs://Bucket/LLaDA"),
  "profile.steps": dict(profile__steps="10-12", steps=11),
  "watchdog.times": dict(watchdog__times=-1.0),
  "watchdog.least_seconds": dict(watchdog__least_seconds=0.0),
  "watchdog.first_seconds": dict(watchdog__first_seconds=0.0),
  "rollout.rewards": dict(rollout__rewards=()),
  "rollout.reward_weights": dict(rollout__reward_weights=(1.0, 2.0)),
  "rollout.normalize": dict(rollout__normalize="batch"),
  "rollout.resample": dict(rollout__resample=-1),
  "task.prompt": dict(task__prompt="polite"),
  "task.weights": dict(task__name="sudoku+countdown", task__weights=(1.0,)),
  "task.weights ": dict(
    task__name="sudoku+countdown", task__weights=(1.0, 0.0)),
  "task.name ": dict(task__name="sudoku+chess"),
  "task.name  ": dict(task__name="sudoku+sudoku"),
  "task.few_shot": dict(task__few_shot=-1),
  "eval.split": dict(eval__split="train"),
  "rollout.prior.template ": dict(
    rollout__prior__template=0.5, task__prompt="dlrl"),
  "rollout.difficulty": dict(rollout__difficulty=(9, 8)),
  "eval.difficulty": dict(eval__difficulty=(13, 20)),
  "task.name": dict(task__name="chess"),
  "model.kv_heads": dict(model__kv_heads=3),
  "model.head_dim": dict(model__head_dim=7),
  "model.compute_dtype": dict(model__compute_dtype="int8"),
  "seed": dict(seed=-1),
  "steps": dict(steps=0),
  "mesh.cpu_devices": dict(mesh__cpu_devices=-1),
  "learn.advantage": dict(learn__advantage="good"),
  "learn.loss_args.clips": dict(
    learn__loss="espo", learn__score_norm="none",
    learn__loss_args={"clips": 0.1}),
  "learn.loss_args.kl_coef": dict(
    learn__loss="espo", learn__score_norm="none",
    learn__loss_args={"kl_coef": "big"}),
  "learn.process_args.block_length": dict(
    learn__process_args={"block_length": 4}),
  "learn.process_args.shrink": dict(
    learn__forward_process="trace", learn__process_args={"shrink": 0}),
  "rollout.sampler.fill_after": dict(rollout__sampler__fill_after=1.1),
  "rollout.prior.template": dict(rollout__prior__template=-0.5),
  "rollout.prior.memory": dict(rollout__prior__memory=2.0),
  "rollout.prior.remask": dict(rollout__prior__remask="all"),
  "rollout.prior.anneal_steps": dict(rollout__prior__anneal_steps=-1),
  "rollout.prior.slots": dict(rollout__prior__slots=0),
  "learn.score_norm": dict(learn__loss="espo"),
  "rollout.group_size ": dict(
    learn__loss="vrpo_offline", learn__score_norm="none"),
  "learn.micro_batch ": dict(
    learn__loss="stable_drl", learn__score_norm="none",
    learn__micro_batch=4),
  "learn.prompt_noise": dict(learn__prompt_noise=1.5),
  "lora.rank": dict(lora__rank=-1),
  "lora.alpha": dict(lora__rank=4, lora__alpha=0.0),
  "lora.targets": dict(lora__rank=4, lora__targets="layers/attention"),
  "lora.targets ": dict(lora__rank=4, lora__targets="layers/(q"),
  "lora.dtype": dict(lora__rank=4, lora__dtype="float16"),
  "lora.quantize": dict(lora__rank=4, lora__quantize="int4"),
  "lora.quantize ": dict(lora__quantize="nf4"),
  "sft.optimizer.learning_rate": dict(sft__optimizer__learning_rate=0.0),
}


@pytest.mark.parametrize("field", BAD)
def test_values_that_cannot_work_name_the_field_the_value_and_the_fix(field):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(changed(**BAD[field]))
  assert error.value.field == field.strip()
  text = str(error.value)
  assert "\n" not in text
  assert repr(error.value.value) in text
  assert len(error.value.fix) > 10


@pytest.mark.parametrize(("change", "message"), [
  (dict(sede=3), "config.sede = 3: unknown key; did you mean 'seed'?"),
  (dict(learn__nmc=3), "config.learn.nmc = 3: unknown key; did you mean"),
  (dict(seed="x"), "config.seed = 'x': expected int"),
  (dict(seed=True), "config.seed = True: expected int"),
  (dict(seed=1.0), "config.seed = 1.0: expected int"),
  (dict(mesh=3), "config.mesh = 3: expected a section"),
  (dict(rollout__difficulty=(1, 2, 3)), "expected 2 values"),
])
def test_unknown_keys_and_wrong_types_are_refused(change, message):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(changed(**change))
  assert message in str(error.value)


def test_a_quantised_base_needs_qwix_and_says_so(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(strict.ConfigError, match=r"pip install qwix$"):
    validate.from_dict(changed(lora__rank=4, lora__quantize="nf4"))


def test_the_slices_of_a_trace_have_to_cover_it():
  trace = dict(learn__forward_process="trace",
               learn__process_args={"shrink": 3})  # of 8 steps
  validate.from_dict(changed(learn__n_mc=3, **trace))
  with pytest.raises(strict.ConfigError, match=r"learn\.n_mc = 4: must be 3"):
    validate.from_dict(changed(learn__n_mc=4, **trace))


SEVERAL = {
  "steps": 0, "learn.loss": "bpgo", "learn.n_mc": "many",
  "rollout.sampler.block_length": 5, "rollout.prompts": -1,
  "task.prompt": "polite", "learn.nmc": 3}


def test_all_mistakes_are_reported_at_once_each_on_its_line():
  with pytest.raises(strict.ConfigErrors) as error:
    validate.from_dict(changed(**{
      key.replace(".", "__"): value for key, value in SEVERAL.items()}))
  head, *lines = str(error.value).split("\n")
  assert head == "7 problems:"
  assert {line.split(" = ")[0] for line in lines} == {
    f"  config.{key}" for key in SEVERAL}
  assert error.value.field == error.value.errors[0].field == "learn.nmc"
  assert error.value.fix.startswith("unknown key; did you mean 'n_mc'")


@pytest.mark.parametrize("changes", [
  # Alone, each would also fail a check of several settings.
  dict(rollout__prompts=0), dict(model__kv_heads=0),
  dict(rollout__sampler__gen_length=0), dict(learn__micro_batch=0),
  dict(task__name="sudoko"), dict(learn__loss="espo", learn__loss_args=3),
  dict(rollout__sampler__steps=0, learn__forward_process="trace"),
  dict(rollout__group_size=1, learn__loss="stable_drl",
       learn__score_norm="none")])
def test_what_follows_from_a_mistake_is_not_reported_beside_it(changes):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(changed(**changes))
  assert not isinstance(error.value, strict.ConfigErrors)


def test_every_setting_is_documented_with_its_default_and_what_is_allowed():
  found = {s.name: s for s in validate.settings()}
  plain = {k for k, v in flat(strict.to_json(config.Config()))}
  assert found.keys() == plain
  assert all(s.meaning and "\n" not in s.meaning for s in found.values())
  assert found["learn.n_mc"][1:4] == ("int", 16, "")
  assert found["learn.n_mc"].allowed == "must be at least 1"
  assert found["rollout.reward_weights"].type == "tuple[float, ...]"
  assert found["sft.gen_length"].unit == "tokens"
  assert found["eval.sampler.cache"].allowed == (
    "choose from 'none', 'prefix', 'dual'")
  assert found["rollout.sampler.top_p"].allowed == (
    "must be above 0 and at most 1")


def flat(values, prefix=""):
  for key, value in values.items():
    if isinstance(value, dict) and not key.endswith("_args"):
      yield from flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def test_a_missing_key_is_refused():
  values = config.default()
  del values.learn["n_mc"]
  with pytest.raises(strict.ConfigError, match=r"config\.learn\.n_mc.*missing"):
    validate.from_dict(values)


def test_an_int_may_stand_for_a_float_but_stays_none():
  cfg = validate.from_dict(changed(learn__negative_weight=1))
  assert type(cfg.learn.negative_weight) is float


def test_a_path_of_fields_is_found_or_refused_with_its_value():
  strict.find(config.Config, "learn.optimizer.learning_rate", "1")
  for path in ("learn.optimizer.lr", "seed.x", "lern.n_mc"):
    with pytest.raises(strict.ConfigError, match=rf"{path} = '1': unknown"):
      strict.find(config.Config, path, "1")


def test_the_difference_of_two_configs_names_every_change():
  a = config.Config()
  b = dataclasses.replace(
    a, seed=3, learn=dataclasses.replace(a.learn, n_mc=8))
  lines = nested.diff(strict.to_json(a), strict.to_json(b))
  assert lines == ["config.learn.n_mc: 16 -> 8", "config.seed: 0 -> 3"]


def test_the_fingerprint_changes_with_any_value_and_with_nothing_else():
  a = config.Config()
  assert strict.fingerprint(a) == strict.fingerprint(config.Config())
  b = dataclasses.replace(a, learn=dataclasses.replace(a.learn, n_mc=8))
  assert strict.fingerprint(a) != strict.fingerprint(b)


def test_no_field_hides_behind_a_method_of_config_dict():
  # `cfg.update` is a method, and so could never be a section.
  def fields(cls):
    for field in dataclasses.fields(cls):
      yield field.name
      if dataclasses.is_dataclass(field.type):
        yield from fields(field.type)

  names = list(fields(config.Config))
  assert "n_mc" in names
  assert not [n for n in names if hasattr(ml_collections.ConfigDict, n)]
