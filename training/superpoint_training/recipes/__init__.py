"""How each paper trains: its examples, its losses and its configuration, one file each."""

from superpoint_training.recipes.recipe import Recipe
from superpoint_training.recipes.superpoint import MAGICPOINT, SUPERPOINT

__all__ = ['MAGICPOINT', 'RECIPES', 'Recipe']

RECIPES = {'superpoint': SUPERPOINT}
"""Trainings of detector and descriptor on frames, by the name of the paper. MagicPoint, on shapes alone, is apart."""
