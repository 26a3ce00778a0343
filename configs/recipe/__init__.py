"""Recipes: sets of options with a name."""
