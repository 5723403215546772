"""From settings to a trained model: the task, the trainer, runs that resume where they stopped."""
