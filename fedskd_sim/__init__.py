"""Simulate federated learning without a centre: models travel a ring of hospitals and learn by similarity distillation."""

__version__ = "0.1.0"
