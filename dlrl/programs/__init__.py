"""Programs behind commands that are only `dlrl NAME`."""
