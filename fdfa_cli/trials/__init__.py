"""Many trainings: what they are, where they are stored, and the engines that train them."""
