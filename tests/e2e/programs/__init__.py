"""What the workers of the tests execute."""
