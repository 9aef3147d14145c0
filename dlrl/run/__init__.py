"""The parts of a run: its setup, session, log and summary."""
