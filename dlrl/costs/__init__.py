"""The needs of compiled programs: memory, FLOPs, traffic and collectives."""
