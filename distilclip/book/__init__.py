"""What only the notebooks use: classes that grow, figures, checks of exercises."""
