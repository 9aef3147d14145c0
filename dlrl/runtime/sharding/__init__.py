"""Code that says itself what devices exchange."""
