"""Where image-caption pairs come from: a reader for each layout of the data."""
