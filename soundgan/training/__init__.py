"""What keeps a run going: objectives, batches, checkpoints, logs, signals, devices."""
