def pytest_collection_modifyitems(config, items):
  """Leaves out the long blocks unless `-m` asks for them."""
  if "docs_long" in config.getoption("markexpr"):
    return
  long = [item for item in items if item.get_closest_marker("docs_long")]
  config.hook.pytest_deselected(items=long)
  items[:] = [item for item in items if item not in long]
