"""Privacy in numbers: what a run spends of it, and what it reveals of those it was trained on."""
