"""Views of recipes that are more than one augmented clip."""
