"""Does the work on a text on Ray."""
