from support.fixtures import own_engine, registry

__all__ = ["own_engine", "registry"]
