"""Many models as one tensor program."""
