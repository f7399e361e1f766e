"""Speed of this package beside named peers, measured in one run."""
