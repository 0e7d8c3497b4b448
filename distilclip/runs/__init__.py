"""What chapter 8b's run leans on: settings, checkpoints, what a run shows."""
