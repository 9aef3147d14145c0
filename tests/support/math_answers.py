"""Tables of golds and answers, `gold ~ answer` in each line."""

from dlrl.tasks.mathematics import competition


def pairs(table):
  """Golds and answers of a table."""
  return [tuple(line.split(" ~ ")) for line in table.splitlines() if line]


def reward(gold, answer):
  """The reward of an answer in a box."""
  [value] = competition.correct_reward(
    [""], [rf"so \boxed{{{answer}}}"], answer=[gold])
  return value
