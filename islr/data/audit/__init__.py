"""What a corpus really holds: missing and broken clips, duplicates, leaks between splits, poses."""
