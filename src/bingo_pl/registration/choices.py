"""What `bingo_pl.register` lets one choose, known without importing what does the work."""

TRANSFORMS = ("auto", "rigid", "affine", "deformable", "network")
"""What `register` may end with; ``network``: the model's network alone, with its affine stage and refinement."""
REFINE = 20
"""Steps of refinement: seconds for a head, and better on all real images that were tried (docs/ready_model.md)."""
REFINED_UP_TO = {2: 64, 3: 16}
"""Slices or volumes of a group that is refined without being asked: it takes minutes on one core."""
