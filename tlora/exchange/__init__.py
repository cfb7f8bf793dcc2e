"""Adapters for and from other tools."""
