"""A reactive document database under your notebook cells."""

__version__ = "0.1.0"
