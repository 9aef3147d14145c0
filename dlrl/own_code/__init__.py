"""Users' code that settings name as `package.module:name`.

`imported` finds it, `trial` runs it once on shapes, and `sources` says which
version of it a run began with.
"""
