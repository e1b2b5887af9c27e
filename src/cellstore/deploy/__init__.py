"""How functions travel from the process that defines them to the processes that run them.

    unit      what travels: a module's functions and tables, as data that can be stored
    pack      in the kernel: a module becomes a unit, or a refusal that names the variable which cannot travel
    load      in the worker: a unit becomes callables
    merge     in the store: a unit joins what was deployed before and nobody took away

    captures  what a function reads besides its arguments · refuse  which of it cannot travel, and why
    hashing   versions: a hash of what a function does, the same in every kernel · origins  whose module is whose
    beside    modules next to the notebook that functions import by themselves
    source    the same functions as text that stands alone (with names from `standalone`) · pickling  the same as one pickle

A unit carries both forms. The pickle is exact and quick, and is only ever opened by the Python version that wrote it:
bytecode of another version crashes the interpreter instead of raising an error. The source is for the others.
"""
