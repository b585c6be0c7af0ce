"""What a person does with a run: check it, find it, look at it, resume it."""
