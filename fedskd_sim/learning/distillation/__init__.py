"""What models teach each other: the similarity of their maps at batch, pixel or voxel, and region
level.
"""
