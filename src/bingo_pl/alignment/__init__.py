"""Groupwise registration at the images' own resolution: rigid, affine and deformable, at random points of space."""
