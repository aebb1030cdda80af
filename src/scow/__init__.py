"""Scow: images, a registry and containers, spoken in Docker's protocols."""

__version__ = "0.1.0"
