"""Files of rows: where each row is."""

import time

from dlrl.tasks.user_files import tables


def test_the_lines_of_all_rows_are_found_in_linear_time(tmp_path):
  path = tmp_path / "rows.jsonl"
  # Blank lines and no line end after the last row.
  path.write_text("\n\n" + f'{{"prompt": "{"a" * 2000}"}}\n\n' * 20_000 + "{}")
  table = tables.open_file(str(path), "task.train_files")
  rows = list(table.scan())
  start = time.monotonic()
  found = [table.where(row.place) for row in rows]
  assert time.monotonic() - start < 10  # reading up to each line: over 30 s
  assert found == [f"{path}:{row.number}" for row in rows]
  assert rows[0].number == 3
  assert rows[-1].number == 40_003
