"""Which atoms carry a prediction, and whether a picture of it can be trusted."""
