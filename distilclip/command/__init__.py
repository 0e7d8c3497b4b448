"""What the command `distilclip` needs: options, a kept index, galleries."""
