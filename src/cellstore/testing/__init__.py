"""Test tools that ship with the package; may import everything, and nothing imports it.

For tests of your own functions

plugin       pytest fixtures: `pytest_plugins = ["cellstore.testing.plugin"]` in conftest.py
store        what they give: a fresh store in memory, a clock you move, callers you choose

For tests of a store

strategies   hypothesis: values, keys
revisions    drives a storage beside a dict that knows what every moment held
clock        a clock that shows what a test says
interleave   threads that run one at a time, in an order a test decides

Is it serializable?

trace        a database that writes down what a function read and wrote
model        replays that on a dict
history      puts what happened into the order the store claims, and judges it
workloads    bank, register, set, append, on_call, queue, ranges, claims
simulation   clients and the lane, interleaved by dice; a failure is made smaller
threads      the same workloads as fast as threads can
"""
