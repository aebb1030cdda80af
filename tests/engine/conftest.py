from support.fixtures import docker_py, engine, own_engine, registry, shared_engine

__all__ = ["docker_py", "engine", "own_engine", "registry", "shared_engine"]
