"""Segmentation in a process of its own: `python -m dbsam.worker` computes, `dbsam.worker.client` asks it to.

The asking process needs numpy only; torch, the networks and the embedding cache live in the worker. Both talk in the
plain messages of `dbsam.worker.protocol` over a socket of this computer, authenticated by a key that only the two know.
"""
