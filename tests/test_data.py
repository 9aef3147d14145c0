import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dlrl import data
from dlrl import strict
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.tasks import mixture

TOKENIZER = char_tokenizer.CharTokenizer()
EOS = TOKENIZER.eos_id
PROMPT = tasks.Prompt(lambda row: row["asked"])
ROWS = [{"asked": str(10**(i % 3) + i), "solution": str(i),
         "difficulty": i % 3, "index": 100 + i} for i in range(10)]


def rl(rows=ROWS, batch_size=5, seed=0, prompt_length=4):
  return data.rl_batches(
    rows, TOKENIZER, PROMPT, batch_size=batch_size, seed=seed,
    prompt_length=prompt_length)


def sft(batch_size=5, seed=0, gen_length=3, rows=ROWS):
  return data.sft_batches(
    rows, TOKENIZER, PROMPT, batch_size=batch_size, seed=seed, prompt_length=4,
    gen_length=gen_length)


def held_out(items, rows=ROWS, prompt_length=4, **options):
  return data.eval_rows(rows, TOKENIZER, PROMPT, items=items,
                        prompt_length=prompt_length, **options)


def epoch(batches, count=2):
  return np.concatenate([next(batches)["position"] for _ in range(count)])


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert a[name].dtype == b[name].dtype


def test_a_batch_holds_the_rows_padded_on_the_right():
  batch = next(rl())
  assert {name: (value.shape, value.dtype.kind, value.dtype.itemsize)
          for name, value in batch.items() if value.dtype.kind == "i"} == {
              "prompt_ids": ((5, 4), "i", 4), "prompt_length": ((5,), "i", 4),
              "position": ((5,), "i", 4)}
  for i in range(5):
    row = ROWS[batch["position"][i]]
    length = batch["prompt_length"][i]
    assert length == len(row["asked"])
    assert batch["prompt_ids"][i].tolist() == (
        TOKENIZER.encode(row["asked"]) + [TOKENIZER.pad_id] * (4 - length))


def test_columns_of_any_kind_stay_in_the_source():
  rows = [row | {"tests": [{"in": i, "out": [str(i)] * i}]}
          for i, row in enumerate(ROWS)]
  assert_same(next(rl(rows)), next(rl()))


def test_sft_adds_the_completion_filled_with_eos():
  batch = next(sft())
  assert batch["completion"].shape == (5, 3)
  assert batch["completion"].dtype == np.int32
  for place, ids in zip(batch["position"], batch["completion"], strict=True):
    solution = ROWS[place]["solution"]
    assert ids.tolist() == TOKENIZER.encode(solution) + [EOS] * (
        3 - len(solution))
  # The same prompts as RL's, in an order of its own.
  asked = {int(p): (ids.tolist(), int(length)) for batch in itertools.islice(
    rl(), 2) for p, ids, length in zip(*(batch[k] for k in (
      "position", "prompt_ids", "prompt_length")), strict=True)}
  for p, ids, length in zip(*(batch[k] for k in (
      "position", "prompt_ids", "prompt_length")), strict=True):
    assert asked[int(p)] == (ids.tolist(), int(length))
  assert epoch(sft()).tolist() != epoch(rl()).tolist()


def test_a_completion_may_fill_the_canvas():
  rows = [{"asked": "1", "solution": "123", "index": 0}]
  batch = next(sft(1, rows=rows))
  assert batch["completion"].tolist() == [TOKENIZER.encode("123")]


def test_an_epoch_is_every_row_once_and_epochs_differ():
  batches = rl()
  first, second = epoch(batches), epoch(batches)
  assert sorted(first) == sorted(second) == list(range(10))
  assert first.tolist() != second.tolist()


def test_no_row_is_lost_when_batches_do_not_divide_an_epoch():
  batches = rl(batch_size=4)
  seen = collections.Counter(epoch(batches, 5).tolist())
  assert seen == dict.fromkeys(range(10), 2)


def test_a_batch_may_be_larger_than_the_source():
  assert next(rl(batch_size=25))["position"].shape == (25,)


def test_a_batch_may_be_a_single_row():
  batches = rl(batch_size=1)
  assert sorted(epoch(batches, 10)) == list(range(10))


def test_the_seed_decides_the_order():
  assert_same(next(rl(seed=3)), next(rl(seed=3)))
  assert epoch(rl(seed=3)).tolist() != epoch(rl(seed=4)).tolist()


@pytest.mark.parametrize("make", [rl, sft])
def test_a_saved_iterator_continues_exactly(make):
  batches = make(batch_size=4)
  for _ in range(4):
    next(batches)
  state = batches.get_state()
  expected = [next(batches) for _ in range(6)]
  other = make(batch_size=4)
  next(other)
  other.set_state(state)
  for batch in expected:
    assert_same(batch, next(other))
  batches.set_state(state)
  assert_same(expected[0], next(batches))


def test_reading_ahead_does_not_leak_into_the_state():
  batches = rl()
  fresh = batches.get_state()
  first = next(batches)
  batches.set_state(fresh)
  assert_same(first, next(batches))


def test_a_long_prompt_is_named_with_its_limit():
  rows = [{"asked": "1+2+3", "solution": "6", "index": 0}]
  for read in (lambda: next(rl(rows)), lambda: held_out(1, rows)):
    with pytest.raises(strict.ConfigError) as error:
      read()
    for part in ("config.task.prompt_length = 4", "'1+2+3'", "5 tokens"):
      assert part in str(error.value)


def test_a_prompt_that_the_model_cannot_read_is_named():
  rows = [{"asked": "Solve", "solution": "6", "index": 0}]
  with pytest.raises(strict.ConfigError, match=r"task\.prompt = 'Solve'.*'S'"):
    held_out(1, rows)


def test_long_prompts_may_lose_their_beginning_and_are_counted():
  rows = [{"asked": "1+2+3", "solution": "6", "index": 0},
          {"asked": "4=4", "solution": "4", "index": 1}]
  whole = held_out(2, rows, truncate=True)
  batch = next(data.rl_batches(
    rows, TOKENIZER, PROMPT, batch_size=2, prompt_length=4, seed=0,
    truncate=True))
  for found in (whole, batch):
    by_index = dict(zip(found["position"].tolist(), zip(
      found["truncated"].tolist(), found["prompt_length"].tolist(),
      found["prompt_ids"].tolist(), strict=True), strict=True))
    assert by_index[0] == (1, 4, TOKENIZER.encode("+2+3"))
    assert by_index[1][:2] == (0, 3)
  assert "truncated" not in held_out(2, rows, 5)


def test_all_rows_are_checked_and_the_first_of_each_kind_is_shown():
  rows = [dict(row) for row in ROWS]
  for i in (2, 5, 7):
    rows[i]["asked"] = "1+2+3"
  rows[6]["asked"] = "Q"
  rows[8]["solution"] = "1234"
  rows[9]["solution"] = "q"
  item = data.sft_item(
    rows, TOKENIZER, PROMPT, prompt_length=4, gen_length=3)
  with pytest.raises(strict.ConfigErrors) as error:
    data.check(rows, item)
  long, unread, answer = error.value.errors
  assert long.field == "task.prompt_length"
  assert "'1+2+3' has 5 tokens, the limit is 4" in str(long)
  assert str(long).endswith("The same holds for 2 more of 10 examples")
  assert (unread.field, unread.value) == ("task.prompt", "Q")
  assert "1 more of 10" in str(unread)  # the answer 'q'
  assert answer.field == "sft.gen_length"
  assert "more" not in str(answer)
  data.check(ROWS, data.sft_item(
    ROWS, TOKENIZER, PROMPT, prompt_length=4, gen_length=3))


def test_an_answer_that_the_model_cannot_read_is_named():
  rows = [{"asked": "1", "solution": "x", "index": 0}]
  with pytest.raises(strict.ConfigError, match="read the answer 'x'"):
    next(sft(rows=rows))


def test_a_long_completion_is_named_with_its_limit():
  rows = [{"asked": "1", "solution": "1234", "index": 0}]
  with pytest.raises(strict.ConfigError) as error:
    next(sft(rows=rows))
  for part in ("config.sft.gen_length = 3", "'1234'", "4 tokens"):
    assert part in str(error.value)


def test_an_empty_source_is_an_error():
  with pytest.raises(strict.ConfigError, match="no examples"):
    rl([])


def test_eval_rows_are_fixed_distinct_and_nested():
  few, many = held_out(4), held_out(10)
  assert_same(few, {name: value[:4] for name, value in many.items()})
  assert sorted(many["position"]) == list(range(10))
  # Written down, because runs of other versions are compared with it.
  assert few["position"].tolist() == [2, 8, 9, 4]
  assert few.keys() == next(rl()).keys()


def test_eval_rows_mix_the_difficulties():
  rows = sorted(ROWS, key=lambda row: row["difficulty"])
  found = held_out(5, rows)["position"]
  assert len({rows[i]["difficulty"] for i in found}) > 1


def test_a_small_eval_set_is_taken_whole():
  assert_same(held_out(512), held_out(10))
  assert held_out(512, ROWS[:2])["position"].shape == (2,)


@pytest.mark.parametrize(("items", "rows"), [(0, ROWS), (4, [])])
def test_eval_needs_an_item_and_an_example(items, rows):
  with pytest.raises(strict.ConfigError, match=r"eval\.size = 0|no examples"):
    held_out(items, rows)


def test_sources_need_only_a_length_and_random_access():
  class Lazy:
    def __len__(self):
      return 10

    def __getitem__(self, index):
      return ROWS[index]

  assert_same(next(rl(Lazy())), next(rl()))
  assert_same(held_out(3, Lazy()), held_out(3))


def mixed(weights, sizes=(7, 4)):
  return mixture.MixedExamples(
    {name: ROWS[:size] for name, size in zip("abc", sizes, strict=False)},
    weights)


def test_batches_of_a_mixture_are_drawn_by_weight():
  batches = rl(mixed((3.0, 1.0)), batch_size=8)
  drawn = [next(batches)["position"] for _ in range(21)]
  # The same number of each task in every batch, and each task by epochs.
  assert [(b < 7).sum() for b in drawn] == [6] * 21
  first = [p for b in drawn for p in b.tolist() if p < 7]
  assert collections.Counter(first) == dict.fromkeys(range(7), 18)
  assert sorted(first[:7]) == list(range(7))
  assert first[:7] != first[7:14]
  assert_same(next(rl(mixed((3.0, 1.0)))), next(rl(mixed((3.0, 1.0)))))


def test_an_iterator_of_a_mixture_continues_exactly():
  batches = rl(mixed((1.0, 2.0)), batch_size=3)
  next(batches)
  state = batches.get_state()
  expected = [next(batches) for _ in range(5)]
  other = rl(mixed((1.0, 2.0)), batch_size=3)
  other.set_state(state)
  for batch in expected:
    assert_same(batch, next(other))


def test_held_out_items_of_a_mixture_are_equally_many_of_each():
  found = held_out(5, mixed((9.0, 1.0)))["position"]
  assert [(found < 7).sum(), (found >= 7).sum()] == [3, 2]
  # Those that the task alone would have.
  assert found[:3].tolist() == held_out(3, ROWS[:7])["position"].tolist()
  # The task that has too few gives all of them.
  found = held_out(10, mixed((9.0, 1.0)))["position"]
  assert [(found < 7).sum(), (found >= 7).sum()] == [5, 4]
  with pytest.raises(strict.ConfigError, match=r"eval\.size = 1.*least 2"):
    held_out(1, mixed((9.0, 1.0)))


@hypothesis.settings(deadline=None, database=None)
@hypothesis.given(st.text(max_size=12), st.text(max_size=12))
@hypothesis.example("Wie heißt 七?", "sieben\x1b[0m")
def test_any_text_is_found_again_in_the_rows_of_a_model_that_reads_bytes(
    asked, answer):
  tokenizer = char_tokenizer.ByteTokenizer()
  row = data.sft_item(
    [{"asked": asked, "solution": answer}], tokenizer, PROMPT,
    prompt_length=48, gen_length=48)(0)
  ids, size = row["prompt_ids"], row["prompt_length"]
  assert tokenizer.decode_all(ids[:size]) == asked
  assert set(ids[size:]) <= {tokenizer.pad_id}
  assert tokenizer.decode(row["completion"]) == answer
