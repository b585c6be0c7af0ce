"""Architectures: one family per module, and `models`, which registers, checks and builds them."""
