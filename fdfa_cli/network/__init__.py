"""Networks as chains of blocks; every layer is a map with its two derivatives."""
