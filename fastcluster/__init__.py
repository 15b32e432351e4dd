"""A web server for Python with a C core and the programming model of Node's cluster."""

__version__ = "0.1.0"
