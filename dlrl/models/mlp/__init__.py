"""What follows attention in a layer: an MLP, or a mixture of experts."""
