"""What chapter 8's loop leans on: settings, checkpoints, what a run shows."""
