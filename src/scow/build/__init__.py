"""Builds: Dockerfiles parsed, checked, planned as a graph of stages and executed through a runner that is handed in."""
