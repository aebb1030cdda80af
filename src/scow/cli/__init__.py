"""The client: arguments, tables, progress, terminal; speaks HTTP only."""
