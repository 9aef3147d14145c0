"""SPG's published scorer of GSM8K (arXiv 2510.09541), to the last digit.

Its rules for the other tasks are d1's. The signature is that of `d1`.
"""

from dlrl.tasks.published_scorers import d1


def gsm8k(question: str, generation: str, ground_truth: float | None
          ) -> tuple[int, int]:
  """1 of 1 by d1's rules, and if they find no number, by one more rule.

  That rule takes the last number between the last `<answer>` and the next
  `</answer>`. A missing tag is assumed at its end of the text.
  """
  del question
  number = d1.gsm8k_answer(generation)
  if number is None:
    rest = generation.rpartition("<answer>")[2].partition("</answer>")[0]
    number = d1.number(rest.strip(), first=False)
  return int(number is not None and number == ground_truth), 1
