"""Whether the papers' claims hold here: one page that anybody can make again.

    python -m benchmarks.claims run    # trains what is not stored yet
    python -m benchmarks.claims time   # a step's costs, on an idle machine
    python -m benchmarks.claims variance  # splits the gradient's variance
    python -m benchmarks.claims page   # writes docs/results.md

`table` lists all runs, `statements` what they are to show. Every finished run
is a small JSON file in `benchmarks/results/claims`, from which alone the page
is made. A command that was stopped goes on where it was.
"""
