"""Our client against scripted peers, also fed byte by byte and cut inside every frame."""
