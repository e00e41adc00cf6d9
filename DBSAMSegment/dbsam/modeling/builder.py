"""Builds a network from its configuration."""

from __future__ import annotations

from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.dbsam import DBSAM


def build_model(config: DBSAMConfig) -> DBSAM:
    """A network with new weights, in training mode, gradients only where the configuration trains."""
    return DBSAM(config)
