"""What the picture index of chapter 9 leans on: its file, and fast search."""
