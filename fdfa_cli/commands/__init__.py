"""The commands, one file each; their bodies import what they need when they run."""
