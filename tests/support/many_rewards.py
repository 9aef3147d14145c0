"""Reward functions of all kinds, good and bad."""

import random

CALLS = []  # of `judge`: how many completions each time


def broken(prompts, completions, **columns):
  raise KeyError("x")


def ones(prompts, completions, **columns):
  return [None if p.startswith("1") else c.count("1") / 8
          for p, c in zip(prompts, completions, strict=True)]


def judge(prompts, completions, **columns):
  CALLS.append(len(completions))
  return [random.random() for _ in completions]


def length(prompts, completions, **columns):
  return [10 + len(c) for c in completions]


def spelled(prompts, completions, **columns):
  """Another reward for nearly every completion, so that all steps teach."""
  return [sum(map(ord, c)) % 97 for c in completions]


def minus(prompts, completions, **columns):
  return [-1.0 for _ in completions]


def lost(prompts, completions, **columns):
  return [None] * len(completions)


class Unprintable(Exception):
  def __str__(self):
    raise RuntimeError


def unprintable(prompts, completions, **columns):
  raise Unprintable


def ends(prompts, completions, **columns):
  raise SystemExit(0)


class Odd:
  def __float__(self):
    raise RuntimeError("a value that is on another device")


class Unreadable(list):
  def __iter__(self):
    raise RuntimeError


def gold(prompts, completions, *, answer, **columns):
  return [1.0] * len(completions)
