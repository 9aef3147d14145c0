"""Forward processes, ELBO estimates and Monte-Carlo gradients."""
