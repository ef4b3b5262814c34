"""How each paper trains: its examples, its losses and its configuration, one file each."""

from superpoint_training.recipes.goodpoint import GOODPOINT
from superpoint_training.recipes.kp2d import KP2D_RECIPE
from superpoint_training.recipes.recipe import Recipe
from superpoint_training.recipes.superpoint import MAGICPOINT, SUPERPOINT
from superpoint_training.recipes.unsuperpoint import UNSUPERPOINT

__all__ = ['MAGICPOINT', 'RECIPES', 'Recipe']

RECIPES = {'superpoint': SUPERPOINT, 'goodpoint': GOODPOINT, 'unsuperpoint': UNSUPERPOINT, 'kp2d': KP2D_RECIPE}
"""Trainings of detector and descriptor on frames, by the name of the paper. MagicPoint, on shapes alone, is apart."""
