"""The live page: what a run folder tells while it grows, as one page in a browser on this machine.

`reading` reads on from where it was, `ring` draws the models on their way, `page` makes the
fragments of the page, and `server` serves them. Nothing here writes.
"""
