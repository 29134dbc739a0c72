"""Adapters to other tools, one a file. Each imports its tool, so none is imported here."""
