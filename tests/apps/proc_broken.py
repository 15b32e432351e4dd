"""An application that cannot be imported."""


def deep():
    raise ZeroDivisionError("broken on purpose")


deep()
