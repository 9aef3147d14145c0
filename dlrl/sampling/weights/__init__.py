"""The parameters that rollouts decode with."""
