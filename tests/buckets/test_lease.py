"""One process at a time writes into a directory of a bucket."""

import json
import threading
import time

import pytest

from dlrl import strict
from dlrl.buckets import lease
from dlrl.buckets import objects

SECONDS = 0.8


@pytest.fixture(autouse=True)
def short(monkeypatch):
  """Leases of less than a second, and as much patience."""
  monkeypatch.setattr(lease, "SECONDS", SECONDS)
  monkeypatch.setattr(objects, "_RETRIES", {
    "max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"})


class Process:
  """What a lease tells the process that has it."""

  def __init__(self, bucket):
    self.said, self.reasons, self.lost = [], [], threading.Event()
    self.held = lease.held(
      f"{bucket}/run", lambda text: strict.FlagError("workdir", "URL", text),
      self.said.append, self.end)

  def end(self, reason):
    self.reasons.append(reason)
    self.lost.set()


def content(gcs, bucket):
  return json.loads(gcs.files(f"{bucket}/run")["lock"])


def test_a_second_process_is_refused_until_the_first_ends(gcs, bucket):
  first, second, third = (Process(bucket) for _ in range(3))
  with first.held:
    began = time.monotonic()
    with pytest.raises(strict.FlagError, match=r"in use by .*, process \d+"):
      second.held.__enter__()
    assert time.monotonic() - began < SECONDS  # it has seen a renewal
    time.sleep(SECONDS)  # far longer than between renewals
    assert not first.lost.is_set()
    assert not content(gcs, bucket)["released"]
  assert content(gcs, bucket)["released"]
  began = time.monotonic()
  with third.held as seen:
    assert time.monotonic() - began < SECONDS / 2
    assert abs(seen - time.time()) < 60
    assert not third.said


def test_the_lease_of_a_dead_process_is_waited_out(gcs, bucket):
  gcs.put(bucket[5:], "run/lock", json.dumps(
    {"by": "host-7, process 3", "token": "x", "time": 1e9,
     "released": False}).encode())
  process, began = Process(bucket), time.monotonic()
  with process.held as seen:
    assert SECONDS < time.monotonic() - began < 3 * SECONDS
    assert seen == 1e9
    assert "host-7, process 3" in process.said[0]
    assert content(gcs, bucket)["token"] != "x"


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"released": 1}'])
def test_a_lock_that_is_none_is_waited_out_or_taken(data, gcs, bucket):
  gcs.put(bucket[5:], "run/lock", data)
  with Process(bucket).held:
    assert content(gcs, bucket)["number"] >= 1


def test_of_two_that_wait_one_is_refused(gcs, bucket):
  gcs.put(bucket[5:], "run/lock", b'{"released": false}')
  results, stop = [], threading.Event()

  def run():
    try:
      with Process(bucket).held:
        results.append("held")
        stop.wait(60)
    except strict.FlagError as e:
      results.append(str(e))
      stop.set()

  threads = [threading.Thread(target=run) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(results) == 2
  assert results.count("held") == 1


@pytest.mark.parametrize("fault", [503, "cut", 30.0])
def test_a_process_that_cannot_renew_ends_in_time(fault, gcs, bucket):
  process = Process(bucket)
  with process.held:
    began = time.monotonic()
    gcs.fault = lambda method, name: fault if name == "run/lock" else None
    assert process.lost.wait(5 * SECONDS)
    # Before anybody else may take the lease.
    assert time.monotonic() - began < SECONDS * lease._LONGER
    assert "has ended" in process.reasons[0]
    gcs.fault = lambda method, name: None


@pytest.mark.parametrize("fault", [503, "cut", "lost", 0.2])
def test_a_renewal_that_fails_for_a_while_is_no_loss(fault, gcs, bucket):
  process, number = Process(bucket), 0

  def every_second(method, name):
    nonlocal number
    number += name == "run/lock"
    return fault if number % 2 and name == "run/lock" else None

  with process.held:
    gcs.fault = every_second
    time.sleep(1.5 * SECONDS)
    assert number > 4
    assert not process.lost.is_set(), process.reasons
  gcs.fault = lambda method, name: None
  with Process(bucket).held:
    pass


def test_a_renewal_that_was_given_up_may_arrive(gcs, bucket, monkeypatch):
  process, real, calls = Process(bucket), objects.put, []

  def put(*args):
    written = real(*args)
    calls.append(args)
    if len(calls) % 2 == 0:
      raise objects.BucketError("does not answer")
    return written

  monkeypatch.setattr(objects, "put", put)
  with process.held:
    time.sleep(2 * SECONDS)
    assert len(calls) > 6
    assert not process.lost.is_set(), process.reasons


def test_a_process_that_was_suspended_ends_before_it_does_anything(
    gcs, bucket, monkeypatch):
  process = Process(bucket)
  with process.held:
    before = len(gcs.log)
    monkeypatch.setattr(
      lease, "now", lambda: time.monotonic() + 10 * SECONDS)
    assert process.lost.wait(SECONDS)
    assert "suspended" in process.reasons[0]
    assert len(gcs.log) - before <= 1  # a renewal under way


def test_a_process_whose_lease_was_taken_ends(gcs, bucket):
  process = Process(bucket)
  with process.held:
    gcs.put(bucket[5:], "run/lock", b'{"token": "another"}')
    assert process.lost.wait(SECONDS)
    assert "another process has taken over" in process.reasons[0]
  # It does not take it back when it ends.
  assert content(gcs, bucket) == {"token": "another"}
