"""What a hospital keeps on disk so that it survives any death, and the proof that what a run has
left is whole.
"""
