"""The kinds as users write them, one file each."""
