"""Numbers below a hundred as English words."""

_SMALL = (
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
  "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
  "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty",
         "ninety")


def of(number: int) -> str:
  """The name of a number in 0..99: `twelve`, `forty`, `forty-two`."""
  if number < 20:
    return _SMALL[number]
  tens, ones = divmod(number, 10)
  return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


VALUES = {of(number): number for number in range(100)}
