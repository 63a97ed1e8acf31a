"""A small error-tracking pipeline: real events in, each stored exactly once.

See README.md. Nothing here imports `coda`, so the generator and the pure parts of the pipeline can
be used and tested without an SDK or a node.
"""
