"""Privacy in numbers: what a run reveals of those that it was trained on."""
