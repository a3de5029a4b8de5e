"""Images: their locks, how they are built and verified, and what an environment is worth that one stands in."""
