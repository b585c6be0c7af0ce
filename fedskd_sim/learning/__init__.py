"""What happens to models: architectures, data, sessions, similarity distillation, evaluation;
the only home of PyTorch.
"""
