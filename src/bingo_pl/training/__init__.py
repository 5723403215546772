"""From settings to a trained model: the task, the trainer, runs that go on where they stopped."""
