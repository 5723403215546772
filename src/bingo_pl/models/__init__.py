"""Trained models: methods made from settings, checkpoints, model files, and transfer between them."""
