"""The islet: an invented world, wholly known, and small models that have really learned it."""
