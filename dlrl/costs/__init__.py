"""What a compiled program needs: memory, FLOPs, traffic and collectives."""
