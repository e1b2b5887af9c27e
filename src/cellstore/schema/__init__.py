"""What values may be: types as plain data, tables, and the arguments of functions.

    expr         type expressions: a type as a JSON tree, its words for people, its form for Convex's clients
    hints        Python annotations to type expressions, read once, where they were written
    types        the compiled form that checks values; the slow twin in `explain` words the error
    rebuild      plain values back to the classes a function's annotations name
    moments      dates and datetimes as text that sorts by time
    definition   `Table` and `Index`: a table as a class
    arguments    a function's signature as plain data
    registry     the functions and tables this process has defined, by module

Hints are resolved in the process that defines a function, at the moment it does: later, and elsewhere, the names in an
annotation may mean something else or nothing. What travels is the finished expression.
"""
