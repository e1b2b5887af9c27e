"""The kernel half of cellstore."""
