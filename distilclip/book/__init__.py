"""What only the book uses: classes that grow, figures, stored results, checks."""
