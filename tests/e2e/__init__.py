"""End-to-end tests: real nodes, real workers, real kills. See ../README.md."""
