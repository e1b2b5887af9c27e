"""Test tools that ship with the package; may import everything, and nothing imports it.

strategies   hypothesis: values, keys
revisions    drives a storage beside a dict that knows what every moment held
"""
