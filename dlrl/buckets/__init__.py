"""Runs and models in buckets of Google Cloud Storage, `gs://BUCKET/PATH`."""
