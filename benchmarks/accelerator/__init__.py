"""Measures dlrl on an accelerator in eight minutes: correctness, then speed.

    python -m benchmarks.accelerator --out DIR
    python -m benchmarks.accelerator --out DIR --dry

On the devices of this host, a GPU, several or TPUs; `docs/accelerators.md` has
the stages and what to look at. The second form has tiny shapes, runs on a CPU
and shows only that everything works. Writes `accelerator.json`, `.png` and
`.md` to DIR, `accelerator_rows.jsonl` while it measures, and `log.txt`.
"""
