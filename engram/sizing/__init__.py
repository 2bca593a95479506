"""How big a memory is, how big it should be, and where it fits: integers alone, no numpy."""
