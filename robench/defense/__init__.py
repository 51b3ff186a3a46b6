"""What a defense author writes: the base class, recipes, networks, augmentation, attacks for training."""
